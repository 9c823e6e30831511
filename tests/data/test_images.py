"""Images: what they are when they are right, and what is said when they are not."""

import os
import tempfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from _support.memory import REFUSED
from diffusion_book._files import UNFINISHED
from diffusion_book.data import DATASETS, Images, images, load


def picture(path, size=(8, 6), mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    shown = {"RGB": pixels[..., :3], "L": pixels[..., 0]}[mode]
    Image.fromarray(shown).save(path)
    return shown


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    return load("mnist-5k"), load("mnist-5k", "test")


def test_the_offline_digits_are_4500_and_500_in_float(digits):
    for part, per_class in zip(digits, (450, 50)):
        assert part.x.shape == (10 * per_class, 1, 28, 28)
        assert part.x.dtype == torch.float32
        assert (part.x.min().item(), part.x.max().item()) == (-1.0, 1.0)
        assert part.conditions["y"].dtype == torch.int64
        assert torch.bincount(part.conditions["y"]).tolist() == [per_class] * 10
    assert [part.name for part in digits] == ["mnist-5k/train", "mnist-5k/test"]
    assert len(digits[0]) == 4500


def test_no_test_digit_is_among_the_training_digits(digits):
    train = {x.numpy().tobytes() for x in digits[0].x}
    assert not any(x.numpy().tobytes() in train for x in digits[1].x)


@pytest.mark.skipif(
    not (Path(os.environ.get("DIFFUSION_BOOK_DATA", "nowhere")) / "MNIST" / "raw").is_dir(), reason="needs MNIST itself"
)
def test_all_offline_digits_are_the_first_500_of_each_class_in_mnists_training_split(digits):
    mnist = load("mnist")
    first = torch.cat([(mnist.conditions["y"] == k).nonzero()[:500, 0] for k in range(10)])
    for part, start, stop in zip(digits, (0, 450), (450, 500)):
        assert torch.equal(part.x, mnist.x[first.reshape(10, 500)[:, start:stop].flatten()])


def test_the_offline_digits_are_digits(digits):
    """Labels belong to their images: the nearest class mean is right far more often than one in ten."""
    train, test = digits
    means = torch.stack([train.x[train.conditions["y"] == k].mean(0).flatten() for k in range(10)])
    guess = torch.cdist(test.x.flatten(1), means).argmin(1)
    assert (guess == test.conditions["y"]).float().mean() > 0.7


def test_loading_twice_shares_no_memory(digits):
    again = load("mnist-5k", "test")
    assert torch.equal(again.x, digits[1].x)
    again.x.zero_()
    assert digits[1].x.min() == -1


def test_a_batch_is_drawn_by_the_generator_with_its_labels(digits):
    train = digits[0]
    (x, told), (x2, again) = (train.batch(64, torch.Generator().manual_seed(5)) for _ in range(2))
    assert x.shape == (64, 1, 28, 28)
    assert torch.equal(x, x2)
    assert torch.equal(told["y"], again["y"])
    at = {image.numpy().tobytes(): int(label) for image, label in zip(train.x, train.conditions["y"])}
    assert [at[image.numpy().tobytes()] for image in x] == told["y"].tolist()


def test_a_batch_may_be_larger_than_the_set(generator):
    few = Images(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), {"y": torch.tensor([0, 1])}, "two")
    x, conditions = few.batch(1000, generator)
    y = conditions["y"]
    assert abs(y.float().mean().item() - 0.5) < 4 * 0.5 / 1000**0.5
    assert torch.equal(x.flatten(), 2.0 * y - 1)


def test_bytes_and_floats_are_inverse():
    every = torch.arange(256, dtype=torch.uint8)
    x = images.from_uint8(every)
    assert (x[0].item(), x[255].item()) == (-1.0, 1.0)
    torch.testing.assert_close(x, torch.linspace(-1, 1, 256))
    assert torch.equal(images.to_uint8(x), every)
    # Rounded to the nearest, so that noise below half a step is forgotten, and clipped outside.
    assert torch.equal(images.to_uint8(x + 0.4 / 127.5), every)
    assert images.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_only_bytes_are_scaled_from_bytes():
    with pytest.raises(ValueError, match=r"expected uint8 images, got torch\.float32"):
        images.from_uint8(torch.zeros(1))


GOOD = torch.linspace(-1, 1, 48).reshape(2, 3, 2, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (255 * GOOD.abs(), r"lie in \[−1, 1\], got \[.*, 255\]; bytes are scaled by from_uint8"),
        (3 * GOOD, r"lie in \[−1, 1\], got \[-3, 3\]"),
        ((GOOD + 1) / 2, r"fill \[−1, 1\], got \[0, 1\]: for \[0, 1\] images use 2 \* x − 1"),
        (torch.full((1, 1, 2, 2), float("nan")), r"lie in \[−1, 1\], got \[nan, nan\]"),
        (GOOD.double(), r"float32 in \[−1, 1\], got torch\.float64"),
        (GOOD.half(), r"float32 in \[−1, 1\], got torch\.float16"),
        ((127 * (GOOD + 1)).to(torch.uint8), r"got torch\.uint8; use from_uint8 for bytes"),
        (GOOD[0], r"\[N, C, H, W\] with 1 or 3 channels, got shape \(3, 2, 4\)"),
        (GOOD[:, :2], r"with 1 or 3 channels, got shape \(2, 2, 2, 4\)"),
        (GOOD.permute(0, 2, 3, 1), r"with 1 or 3 channels, got shape \(2, 2, 4, 3\)"),
        (torch.zeros(2, 4, 5, 5), r"with 1 or 3 channels, got shape \(2, 4, 5, 5\)"),
        (torch.zeros(0, 3, 5, 5), "there are no images"),
    ],
)
def test_images_of_the_wrong_range_type_or_shape_are_refused(x, message):
    images.check_images(GOOD)
    with pytest.raises(ValueError, match=message):
        Images(x, {}, "wrong")


def test_each_image_needs_its_label():
    with pytest.raises(ValueError, match=r"one label for each of the 2 images is needed, got \(3,\)"):
        Images(GOOD, {"y": torch.tensor([0, 1, 2])}, "wrong")


def test_an_unknown_data_set_is_refused_with_the_list_of_known_ones():
    with pytest.raises(
        ValueError,
        match=r"'minst' \(did you mean 'mnist'\?\); choose one of mnist-5k, icons, scenes, .*cifar10, or folder:PATH",
    ):
        load("minst")


@pytest.mark.parametrize("name", DATASETS)
def test_an_unknown_split_is_refused(name):
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        load(name, "val")


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "scenes"])
def test_a_named_set_keeps_its_size(name):
    with pytest.raises(ValueError, match=f"size is for folder:PATH; '{name}' comes in its own size"):
        load(name, size=32)


# What comes through torchvision


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("File not found or corrupted."), OSError(28)])
def test_a_failed_download_names_the_offline_choice(name, error, monkeypatch, tmp_path):
    from diffusion_book._torchvision import torchvision

    def maker(**options):
        raise error

    monkeypatch.setattr(torchvision.datasets, images.TORCHVISION[name], maker)
    monkeypatch.setenv("DIFFUSION_BOOK_DATA", str(tmp_path))
    with pytest.raises(ConnectionError) as found:
        load(name)
    for part in (name, str(tmp_path), str(error), "DIFFUSION_BOOK_DATA", "mnist-5k"):
        assert part in str(found.value)
    assert found.value.__cause__ is error


class FakeSet:
    """What torchvision's sets look like from outside: MNIST keeps a tensor, CIFAR an array and a list."""

    def __init__(self, colour, asked):
        self.colour, self.asked = colour, asked

    def __call__(self, root, train, download):
        self.asked.append((root, train, download))
        pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        self.data = pixels if self.colour else torch.from_numpy(pixels[..., 0])
        self.targets = [3, 1] if self.colour else torch.tensor([3, 1])
        return self


@pytest.mark.parametrize(("name", "colour"), [("mnist", False), ("fashion-mnist", False), ("cifar10", True)])
def test_what_torchvision_has_is_scaled_and_turned(name, colour, monkeypatch, tmp_path):
    from diffusion_book._torchvision import torchvision

    asked = []
    monkeypatch.setattr(torchvision.datasets, images.TORCHVISION[name], FakeSet(colour, asked))
    monkeypatch.setenv("DIFFUSION_BOOK_DATA", str(tmp_path))
    found = load(name, "test")
    assert asked == [(str(tmp_path), False, True)]
    assert found.x.shape == (2, 3 if colour else 1, 4, 5)
    # Pixel (row 2, column 3) of image 1, channel 0, is byte ((1·4 + 2)·5 + 3)·3 of the array.
    assert found.x[1, 0, 2, 3].item() == pytest.approx(99 / 127.5 - 1)
    assert found.conditions["y"].tolist() == [3, 1]
    assert found.name == f"{name}/test"


# A folder of one's own


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_gives_the_pixels_of_its_files_in_order(tmp_path, mode):
    first = picture(tmp_path / "a.png", mode=mode, seed=1)
    (tmp_path / "sub").mkdir()
    second = picture(tmp_path / "sub" / "b.PNG", mode=mode, seed=2)
    (tmp_path / "notes.txt").write_text("no image")
    found = load(f"folder:{tmp_path}")
    assert found.x.shape == (2, 3, 6, 8)
    assert found.conditions == {}
    assert found.name == f"folder:{tmp_path}"
    for x, pixels in zip(found.x, (first, second)):
        expected = np.repeat(pixels[..., None], 3, 2) if mode == "L" else pixels[..., :3]
        assert np.array_equal(images.to_uint8(x).permute(1, 2, 0).numpy(), expected)


def test_subfolders_are_classes_when_asked_for(tmp_path):
    """The first on the way, in the order of their names; a picture keeps its place."""
    for seed, name in enumerate(("dogs/a.png", "cats/deep/er/b.png", "cats/c.png", "zebras/cats/d.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / name, seed=seed)
    (tmp_path / "empty").mkdir()
    found = load(f"folder:{tmp_path}", labels="folders")
    assert found.class_names == ("cats", "dogs", "zebras")
    assert found.conditions["y"].dtype == torch.int64
    assert found.conditions["y"].tolist() == [0, 0, 1, 2]
    plain = load(f"folder:{tmp_path}")
    assert torch.equal(found.x, plain.x)
    assert (plain.conditions, plain.class_names) == ({}, ())
    (tmp_path / "dogs" / "a.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"a\.png"):
        rest = load(f"folder:{tmp_path}", labels="folders", skip_broken=True)
    assert rest.class_names == ("cats", "zebras")
    assert rest.conditions["y"].tolist() == [0, 0, 1]


def test_a_picture_in_no_subfolder_has_no_class(tmp_path):
    (tmp_path / "dogs").mkdir()
    picture(tmp_path / "dogs" / "a.png")
    picture(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png lies in no subfolder, and so has no class \(1 of 2 files do not\)"):
        load(f"folder:{tmp_path}", labels="folders")


def test_labels_are_folders_and_of_a_folder(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="labels must be None, 'folders' or 'captions', got 'names'"):
        load(f"folder:{tmp_path}", labels="names")
    with pytest.raises(ValueError, match="labels is for folder:PATH; 'mnist-5k' has its own"):
        load("mnist-5k", labels="folders")


def test_hidden_files_are_no_pictures_of_yours(tmp_path):
    """What a program leaves that is killed while it writes one; and what macOS and notebooks put beside them."""
    picture(tmp_path / "a.png", seed=1)
    before = load(f"folder:{tmp_path}")
    for name in (f"{UNFINISHED}0a1b.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name, seed=2)
    assert torch.equal(load(f"folder:{tmp_path}").x, before.x)
    hidden = tmp_path / ".pictures"  # but a folder that is named is read
    hidden.mkdir()
    picture(hidden / "b.png", seed=3)
    assert len(load(f"folder:{hidden}")) == 1


def test_a_size_scales_and_crops_to_one_square(tmp_path):
    """A wide picture, black, white, black: its middle square is what is kept."""
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / "zero.png")
    found = load(f"folder:{tmp_path}", size=5)
    assert found.x.shape == (2, 3, 5, 5)
    assert found.x[0, :, :, 1:4].min() > 0.9
    assert found.x[1].max() == -1


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=exif)
    x = load(f"folder:{tmp_path}").x[0]
    assert x.shape == (3, 6, 4)
    assert (x[:, :, 3] == 1).all()  # the top row has become the right column


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder; give folder:PATH"):
        load(f"folder:{tmp_path / 'nowhere'}")


def test_a_file_for_a_folder_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is not a folder"):
        load(f"folder:{tmp_path / 'a.png'}")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no images in .*; looked for .*\.jpg.*\.png.*, subfolders included"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_corrupt_file_is_named(tmp_path, content):
    picture(tmp_path / "good.png")
    if content is None:  # cut off in the middle of the pixels
        content = (tmp_path / "good.png").read_bytes()[:100]
    (tmp_path / "torn.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"torn\.png cannot be read as an image .*; repair it or take it out"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("size", [None, 4])
def test_broken_files_are_left_out_when_told_so_and_named(tmp_path, size):
    (tmp_path / "a.png").write_bytes(b"not an image")
    picture(tmp_path / "b.png", seed=1)
    (tmp_path / "c.jpg").write_bytes(b"")
    picture(tmp_path / "d.png", seed=2)
    with pytest.warns(UserWarning, match=r"left out 2 of 4 files.*a\.png \(.*c\.jpg \(") as told:
        found = load(f"folder:{tmp_path}", size=size, skip_broken=True)
    assert Path(told[0].filename) == Path(__file__)  # the warning points at who called
    (tmp_path / "a.png").unlink()
    (tmp_path / "c.jpg").unlink()
    assert torch.equal(found.x, load(f"folder:{tmp_path}", size=size).x)


def test_a_good_folder_warns_of_nothing(tmp_path, recwarn):
    picture(tmp_path / "a.png")
    load(f"folder:{tmp_path}", skip_broken=True)
    assert not recwarn.list


def test_a_folder_with_nothing_but_broken_files_is_refused(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"none of the 2 files in .* can be read as an image, not even .*a\.png"):
        load(f"folder:{tmp_path}", size=4, skip_broken=True)


def test_images_of_mixed_sizes_are_told_apart_from_the_first_good_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    picture(tmp_path / "b.png", size=(8, 6))
    picture(tmp_path / "c.png", size=(9, 6))
    with pytest.raises(ValueError, match=r"c\.png is 9×6 but .*b\.png is 8×6"):
        load(f"folder:{tmp_path}", skip_broken=True)


@pytest.mark.parametrize("name", DATASETS)
def test_only_a_folder_has_broken_files_to_skip(name):
    with pytest.raises(ValueError, match=f"skip_broken is for folder:PATH; '{name}' has no files"):
        load(name, skip_broken=True)


def test_images_of_mixed_sizes_are_refused_unless_a_size_is_given(tmp_path):
    picture(tmp_path / "a.png", size=(8, 6))
    picture(tmp_path / "b.png", size=(9, 6))
    with pytest.raises(ValueError, match=r"b\.png is 9×6 but .*a\.png is 8×6; pass size= to scale and crop"):
        load(f"folder:{tmp_path}")
    assert load(f"folder:{tmp_path}", size=4).x.shape == (2, 3, 4, 4)


def test_pixels_of_16_bits_are_refused(tmp_path):
    """Pillow would cut every value above 255 to white in silence."""
    Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png cannot be read .*more than 8 bits"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("size", [0, -4])
def test_a_size_without_pixels_is_refused(tmp_path, size):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"size must be at least one pixel, got {size}"):
        load(f"folder:{tmp_path}", size=size)


def test_a_folder_has_no_test_split(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a folder has only a 'train' split; put test images in a folder"):
        load(f"folder:{tmp_path}", "test")


def test_transparent_parts_of_a_picture_are_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 255)).save(tmp_path / "black.png")
    x = load(f"folder:{tmp_path}").x  # sorted by name: black, clear
    assert x[0].eq(-1).all()
    assert x[1].eq(1).all()


def test_labels_are_class_indices():
    with pytest.raises(ValueError, match=r"labels must be int64 .* got torch.float32; use y.long\(\)"):
        Images(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), {"y": torch.tensor([0.0, 1.0])}, "made up")


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"y": [0, 1]}, r"conditions are tensors, one row an example, .* got y = \[0, 1\]"),
        ({"y": torch.tensor([0, -1])}, "labels are class indices from 0 on, got -1; leave out what has no class"),
        (torch.tensor([0, 1]), 'conditions are tensors by name, such as {"y": y}, got Tensor'),
        ({"context": torch.zeros(3, 4)}, r"context must have one row for each of the 2 images, got \(3, 4\)"),
    ],
)
def test_labels_of_another_type_or_below_zero_are_refused(conditions, message):
    with pytest.raises(ValueError, match=message):
        Images(GOOD, conditions, "wrong")


def test_examples_say_what_a_network_must_be_built_for():
    pictures = Images(GOOD, {"y": torch.tensor([4, 1])}, "two")
    assert (pictures.shape, pictures.classes) == (tuple(GOOD.shape[1:]), 5)
    assert Images(GOOD, {}, "two").classes == 0
    assert Images(GOOD, {"context": torch.zeros(2, 3)}, "two").classes == 0


def test_the_hash_of_examples_is_of_pixels_and_conditions():
    y, words = torch.tensor([0, 1]), torch.zeros(2, 3)
    sets = [
        Images(GOOD, {"y": y}, "a"),
        Images(-GOOD, {"y": y}, "a"),
        Images(GOOD, {"y": 1 - y}, "a"),
        Images(GOOD, {"y": y, "context": words}, "a"),
        Images(GOOD, {}, "a"),
    ]
    assert len({images.sha256 for images in sets}) == 5
    assert Images(GOOD.clone(), {"context": words, "y": y}, "of another name").sha256 == sets[3].sha256


# Nothing is dropped without a word


def test_folders_behind_links_are_read(tmp_path):
    """Beside pictures of one's own, and where all are behind links; linked files and a linked root are read as well."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "set").mkdir()
    for i in range(3):
        picture(tmp_path / "cats" / f"{i}.png", seed=i)
    picture(tmp_path / "set" / "own.png", seed=9)
    (tmp_path / "set" / "behind").symlink_to(tmp_path / "cats")
    (tmp_path / "set" / "one.png").symlink_to(tmp_path / "cats" / "2.png")
    (tmp_path / "root").symlink_to(tmp_path / "set")
    cats = load(f"folder:{tmp_path / 'cats'}").x
    for root in ("set", "root"):
        found = load(f"folder:{tmp_path / root}").x
        assert torch.equal(found[:3], cats)  # behind/0 … 2, then one, then own
        assert torch.equal(found[3], cats[2])
        assert len(found) == 5
    (tmp_path / "set" / "own.png").unlink()
    (tmp_path / "set" / "one.png").unlink()
    assert torch.equal(load(f"folder:{tmp_path / 'set'}").x, cats)


def test_a_link_to_a_folder_around_it_does_not_lead_in_circles(tmp_path):
    """To the root, to the folder it lies in, and two folders that lead to each other."""
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        picture(tmp_path / "set" / name / "x.png", seed=ord(name))
    (tmp_path / "set" / "a" / "root").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "here").symlink_to(".")
    assert len(load(f"folder:{tmp_path / 'set'}")) == 2
    (tmp_path / "set" / "a" / "to-b").symlink_to(tmp_path / "set" / "b")
    (tmp_path / "set" / "b" / "to-a").symlink_to(tmp_path / "set" / "a")
    assert len(load(f"folder:{tmp_path / 'set'}")) == 4  # each folder, and the other one that its link shows


@pytest.mark.parametrize("name", ["gone.png", "gone"])
def test_a_link_that_leads_nowhere_is_a_broken_file(name, tmp_path):
    """Also one without an ending, which would be that of a folder; a link to some other kind of file is not asked."""
    picture(tmp_path / "a.png")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image \(.*leads nowhere\); repair it"):
        load(f"folder:{tmp_path}")
    with pytest.warns(UserWarning, match=rf"left out 1 of 2 files.*{name} \("):
        assert len(load(f"folder:{tmp_path}", skip_broken=True)) == 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"none of the 1 files in .* can be read as an image"):
        load(f"folder:{tmp_path}", skip_broken=True)


def test_a_pipe_with_a_pictures_name_is_a_broken_file(tmp_path):
    """It would be waited for without end."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image \(it is no file"):
        load(f"folder:{tmp_path}")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_subfolder_that_cannot_be_read_is_told(mode):
    """Root may read everything, so it becomes nobody for a moment."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        picture(root / "a.png")
        (root / "private").mkdir()
        picture(root / "private" / "b.png")
        (root / "private").chmod(mode)
        us = os.geteuid()
        try:
            if us == 0:
                os.seteuid(65534)
            with pytest.raises(ValueError, match=r"private cannot be read \(.*Permission denied.*\); make it readable"):
                load(f"folder:{root}")
        finally:
            os.seteuid(us)
            (root / "private").chmod(0o755)


def test_pictures_in_a_form_that_is_not_read_are_told(tmp_path):
    for name in ("a.HEIC", "b.HEIC", "c.svg"):
        (tmp_path / name).write_bytes(b"a picture")
    with pytest.raises(ValueError, match=r"no images in .*; there are 2 of \.HEIC and 1 of \.svg, .*: convert them"):
        load(f"folder:{tmp_path}")
    picture(tmp_path / "d.png")
    with pytest.warns(UserWarning, match=r"passed over 2 of \.HEIC and 1 of \.svg in") as told:
        assert len(load(f"folder:{tmp_path}")) == 1
    assert Path(told[0].filename) == Path(__file__)


def test_a_folder_may_begin_at_home(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert len(load(f"folder:~/{tmp_path.name}")) == 1


# The scale is asked of those who hand images over, and not of bytes that were scaled here


@pytest.mark.parametrize("darkest", [128, 200, 255])
def test_a_bright_folder_is_read(darkest, tmp_path):
    """Fog, snow, and nothing but white or transparent pictures."""
    pixels = np.random.default_rng(0).integers(darkest, 256, (2, 6, 8, 3)).astype(np.uint8)
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{i}.png")
    found = load(f"folder:{tmp_path}").x
    assert torch.equal(images.to_uint8(found), torch.from_numpy(pixels).permute(0, 3, 1, 2))


@pytest.mark.parametrize("levels", [torch.arange(256), torch.tensor([0, 255]), torch.arange(128, 256)])
def test_images_between_0_and_1_are_still_told(levels):
    """Bright or not: of the same bytes divided by 255, one level of two falls between the bytes of [−1, 1]."""
    scaled = levels.float()[:, None, None, None]
    Images(scaled / 127.5 - 1, {}, "right")
    Images(2 * (scaled / 255) - 1, {}, "right too")
    with pytest.raises(ValueError, match=r"must fill \[−1, 1\], got .* for \[0, 1\] images use 2 \* x − 1"):
        Images(scaled / 255, {}, "wrong")


def test_bytes_are_not_taken_for_floats():
    """Clipped to [−1, 1], all bytes but 0 and 1 would be white, and two sets would have one hash."""
    bytes_ = torch.tensor([[0, 50, 255]], dtype=torch.uint8)[:, :, None, None]
    for use in (images.to_uint8, images.images_sha256, images.check_range):
        with pytest.raises(ValueError, match=r"images must be floating point, got torch\.uint8.*scale images to"):
            use(bytes_)
        with pytest.raises(ValueError, match=r"images must be a tensor .*, got ndarray"):
            use(bytes_.numpy())
    for use in (images.images_sha256, images.check_range):
        with pytest.raises(ValueError, match=r"images must lie in \[−1, 1\], got \[0, 255\]; bytes are scaled by"):
            use(bytes_.float())


def test_a_pixel_that_is_no_number_is_no_byte():
    with pytest.raises(ValueError, match="images must be numbers, and there are NaN among them"):
        images.to_uint8(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize("x", [GOOD.numpy(), GOOD.tolist(), None])
def test_images_are_a_tensor(x):
    with pytest.raises(ValueError, match=r"images must be a tensor \[N, C, H, W\], got .*; use torch\.from_numpy"):
        Images(x, {}, "wrong")


# Another default device


def test_data_are_on_the_cpu_whatever_the_default_device(digits, tmp_path, monkeypatch):
    """`meta` holds no numbers, so whatever was made there could not be compared."""
    from diffusion_book._torchvision import torchvision

    (tmp_path / "class").mkdir()
    picture(tmp_path / "class" / "a.png")
    monkeypatch.setenv("DIFFUSION_BOOK_DATA", str(tmp_path))
    for name, colour in (("mnist", False), ("cifar10", True)):
        monkeypatch.setattr(torchvision.datasets, images.TORCHVISION[name], FakeSet(colour, []))
    with torch.device("meta"):
        found = load("mnist-5k")
        others = [load(name) for name in ("mnist", "cifar10")] + [load(f"folder:{tmp_path}", labels="folders")]
        assert (found.shape, found.classes) == ((1, 28, 28), 10)
        x, conditions = found.batch(8, torch.Generator().manual_seed(5))
    assert torch.equal(found.x, digits[0].x)
    assert torch.equal(found.conditions["y"], digits[0].conditions["y"])
    assert {part.x.device.type for part in others} == {"cpu"}
    assert {part.conditions["y"].device.type for part in others} == {"cpu"}
    again, labels = digits[0].batch(8, torch.Generator().manual_seed(5))
    assert torch.equal(x, again)
    assert torch.equal(conditions["y"], labels["y"])


@pytest.mark.parametrize("name", images.TORCHVISION)
def test_without_a_home_one_is_asked_for_a_folder(name, homeless):
    with pytest.raises(ConnectionError, match=r"no home directory.*set DIFFUSION_BOOK_DATA to a .* or use 'mnist-5k'"):
        load(name)
    assert len(load("mnist-5k", "test")) == 500


@REFUSED
def test_pictures_for_which_there_is_no_room_are_told_before_they_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not read")
    with pytest.raises(ValueError, match=r"not enough memory for the pictures of .* \(.*\); take a smaller size"):
        load(f"folder:{tmp_path}", size=1_000_000)
