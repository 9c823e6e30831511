"""A folder of pictures is described, cleaned and divided without being touched, and what is alike stays together."""

import itertools
from collections import Counter
from datetime import datetime
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from diffusion_book import data
from diffusion_book.data import alike, load


def scene(seed: int, side: int = 96) -> Image.Image:
    """Smooth random colours: pictures of different seeds have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve pictures in two subfolders, and one of each thing that goes wrong in folders."""
    folder = tmp_path / "mine"
    for i in range(12):
        path = folder / ("a", "b")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(i).save(path)
    scene(0).save(folder / "b" / "again.bmp")  # the same pixels in another form
    scene(1, 192).save(folder / "a" / "larger.jpg", quality=80)
    scene(40, 20).save(folder / "tiny.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "phone.heic").write_bytes(b"a form that is not read")
    return folder


def names(pictures) -> list[str]:
    return [p.file.name for p in pictures]


# The report ----------------------------------------------------------------------------------------------------


def test_everything_in_a_folder_is_told_of_once(folder):
    report = data.check(folder)
    assert len(report.pictures) == 15
    assert [(file.name, bool(why)) for file, why in report.broken] == [("torn.jpg", True)]
    assert [file.name for file in report.others] == ["notes.txt", "phone.heic"]
    assert names(report.tiny) == ["tiny.png"]
    assert [names(group) for group in report.copies] == [["00.png", "again.bmp"]]
    assert [names(pair) for pair in report.near_copies] == [["larger.jpg", "01.png"]]
    told = {p.file for p in report.pictures} | {file for file, _ in report.broken} | set(report.others)
    assert told == {p for p in folder.rglob("*") if p.is_file()}


def test_its_words_name_what_is_wrong(folder):
    text = str(data.check(folder))
    for words in (
        f"{folder}: 15 pictures in 3 folders",
        "torn.jpg (",
        "notes.txt, phone.heic",
        "tiny.png (20×20)",
        "a/00.png = b/again.bmp",
        "a/larger.jpg ~ b/01.png",
        "12 pictures would be left",
        "shorter side 20 to 192 px, half of them at least 96",
    ):
        assert words in text, text


def test_a_sound_folder_has_nothing_to_tell(tmp_path):
    for i in range(5):
        scene(i).save(tmp_path / f"{i}.png")
    report = data.check(tmp_path)
    wrong = [report.broken, report.others, report.tiny, report.copies, report.near_copies, report.bursts]
    assert not any(wrong)
    assert len(report.kept) == len(report.together) == 5
    assert str(report).count("none") == 6


def test_a_long_list_is_cut_and_counted(tmp_path):
    for i in range(8):
        scene(i, 16).save(tmp_path / f"{i}.png")
    assert "8: 0.png (16×16), 1.png (16×16), 2.png (16×16), 3.png (16×16), 4.png (16×16) and 3 more" in str(
        data.check(tmp_path)
    )


def test_a_turned_copy_is_an_exact_one(tmp_path):
    """What the camera wrote on its side, with the note that says so, and what a program has set upright."""
    wide = scene(3).crop((0, 0, 96, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "camera.png", exif=exif)
    ImageOps.exif_transpose(Image.open(tmp_path / "camera.png")).save(tmp_path / "upright.png")
    report = data.check(tmp_path)
    assert len(report.copies) == 1
    assert {(p.width, p.height) for p in report.pictures} == {(60, 96)}


@pytest.mark.parametrize("how", ["smaller", "jpeg", "grey corner"])
def test_a_picture_that_was_saved_again_is_a_near_copy(tmp_path, how):
    for i in range(6):
        scene(i).save(tmp_path / f"{i}.png")
    copy = scene(2)
    if how == "smaller":
        copy = copy.resize((64, 64), Image.Resampling.LANCZOS)
    if how == "grey corner":
        copy.paste((128, 128, 128), (0, 0, 8, 8))
    copy.save(tmp_path / f"copy.{'jpg' if how == 'jpeg' else 'png'}", **({"quality": 70} if how == "jpeg" else {}))
    found = [{p.file.stem for p in pair} for pair in data.check(tmp_path).near_copies]
    assert found == [{"2", "copy"}]


def test_the_same_drawing_in_another_colour_is_no_copy_but_alike(tmp_path):
    """The hash is blind to colour: red and blue of one luminance differ in none of its bits."""
    mask = scene(5).convert("L")
    for name, colour in (("red", (255, 60, 60)), ("blue", (90, 110, 255))):
        ImageOps.colorize(mask, colour, "white").save(tmp_path / f"{name}.png")
    report = data.check(tmp_path)
    red, blue = (p.print for p in report.pictures)
    assert (red.bits != blue.bits).sum() <= alike.NEAR_BITS
    assert not report.near_copies
    assert [len(group) for group in report.together] == [2]


# What is alike -------------------------------------------------------------------------------------------------


def test_pairs_are_those_of_comparing_each_with_each():
    """By the package's own difference of hashes, one pair at a time."""
    _, drawn = data.icons.CLASSES, data.icons.pictures("test", 48)[0]
    images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in drawn]
    prints = [alike.fingerprint(image) for image in images]
    plain = [imagehash.phash(image) for image in images]
    mirrored = [imagehash.phash(ImageOps.mirror(image)) for image in images]
    bits = 14
    each = list(itertools.combinations(range(len(images)), 2))
    expected = {(i, j) for i, j in each if plain[i] - plain[j] <= bits or plain[i] - mirrored[j] <= bits}
    assert len(expected) > 10
    assert set(alike.alike_pairs(prints, bits)) == expected
    near = {(i, j) for i, j in each if plain[i] - plain[j] <= 30 and rms(images[i], images[j]) <= alike.NEAR_COLOUR}
    assert set(alike.near_pairs(prints, 30)) == near


def rms(a: Image.Image, b: Image.Image) -> float:
    small = [np.asarray(x.resize((16, 16), Image.Resampling.LANCZOS), dtype=np.float64) / 127.5 for x in (a, b)]
    return float(np.sqrt(((small[0] - small[1]) ** 2).mean()))


def test_groups_are_the_connected_components():
    rng = np.random.default_rng(0)
    for count, many in ((1, 0), (30, 10), (30, 25), (200, 150)):
        pairs = rng.integers(0, count, (many, 2))
        graph = coo_matrix((np.ones(many), pairs.T), (count, count))
        number, label = connected_components(graph, directed=False)
        found = alike.groups(count, [tuple(pair) for pair in pairs])
        assert sorted(map(tuple, found)) == sorted(tuple(np.flatnonzero(label == k)) for k in range(number))


def test_neighbours_that_look_alike_are_a_burst_and_others_are_not(tmp_path):
    """A window that moves over one scene, as a camera does; in another folder one more of them."""
    wide = scene(7, 256)
    for i in range(4):
        wide.crop((4 * i, 0, 4 * i + 128, 128)).save(tmp_path / f"shot{i}.png")
    scene(8, 128).save(tmp_path / "tree.png")
    (tmp_path / "other").mkdir()
    wide.crop((0, 0, 128, 128)).resize((100, 100)).save(tmp_path / "other" / "shot.png")
    report = data.check(tmp_path)
    assert [names(run) for run in report.bursts] == [[f"shot{i}.png" for i in range(4)]]
    assert sorted(map(len, report.together)) == [1, 5]  # the one in the other folder is alike, not of the burst


def test_what_a_camera_took_within_seconds_is_a_burst(tmp_path):
    for i, second in enumerate((0, 9, 30)):
        exif = Image.Exif()
        exif[0x0132] = datetime(2024, 6, 1, 12, 0, second).strftime("%Y:%m:%d %H:%M:%S")
        scene(20 + i).save(tmp_path / f"{i}.jpg", exif=exif)
    scene(30).save(tmp_path / "3.jpg")
    report = data.check(tmp_path)
    assert [p.taken.second if p.taken else None for p in report.pictures] == [0, 9, 30, None]
    assert [names(run) for run in report.bursts] == [["0.jpg", "1.jpg"]]


# The cleaned copy ----------------------------------------------------------------------------------------------


def test_a_clean_copy_has_the_bytes_and_the_places_of_what_is_kept(folder, tmp_path):
    before = state(folder)
    report = data.check(folder)
    assert data.clean(report, tmp_path / "clean") == 12
    copied = {p.relative_to(tmp_path / "clean"): content for p, (content, _) in state(tmp_path / "clean").items()}
    wanted = {p.file.relative_to(folder): before[p.file][0] for p in report.kept}
    assert copied == wanted
    assert {path.name for path in copied} & {"again.bmp", "01.png", "larger.jpg", "00.png"} == {"00.png", "larger.jpg"}
    assert state(folder) == before
    again = data.check(tmp_path / "clean")
    assert len(again.kept) == len(again.pictures) == 12
    assert not any([again.broken, again.others, again.tiny, again.copies, again.near_copies])
    assert len(load(f"folder:{tmp_path / 'clean'}", size=16)) == 12


@pytest.mark.parametrize("inside", [".", "new", "a/new", "a/../b/new", "link/new"])
def test_nothing_is_written_into_the_folder_that_is_read(folder, tmp_path, inside):
    (tmp_path / "link").symlink_to(folder)
    out = tmp_path / inside if inside.startswith("link") else folder / inside
    before = state(folder)
    for refused in (lambda: data.clean(data.check(folder), out), lambda: data.split_folder(folder, out, 0.5)):
        with pytest.raises(ValueError, match=r"lies within .*, which is only read|is there and not empty"):
            refused()
    assert state(folder) == before


def test_a_folder_that_holds_something_is_not_written_to(folder, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for out in ("used", "file"):
        with pytest.raises(ValueError, match=rf"{out} is there and not empty; give a new folder"):
            data.clean(data.check(folder), tmp_path / out)
    (tmp_path / "empty").mkdir()
    assert data.clean(data.check(folder), tmp_path / "empty") == 12


# The split -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def icons(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("icons") / "icons"
    data.write_icons(folder, size=32, split="test")
    for path in sorted(folder.rglob("*.png"))[::3]:  # of every third a copy of another size in the same subfolder
        with Image.open(path) as image:
            image.resize((80, 80), Image.Resampling.LANCZOS).save(path.with_name(f"copy of {path.name}"))
    return folder


def test_a_split_keeps_shares_and_leaves_no_likeness_across(icons, tmp_path):
    before = state(icons)
    found = data.split_folder(icons, tmp_path / "sets", 0.25, seed=1)
    assert state(icons) == before
    parts = {name: data.check(tmp_path / "sets" / name) for name in ("train", "held-out")}
    assert [p.file for p in parts["held-out"].pictures] == list(found.held_out)
    assert {p.relative_to(tmp_path / "sets" / "train") for p in found.train} | {
        p.relative_to(tmp_path / "sets" / "held-out") for p in found.held_out
    } == {p.relative_to(icons) for p in icons.rglob("*.png")}
    whole = Counter(p.parent.name for p in icons.rglob("*.png"))
    held = Counter(p.parent.name for p in found.held_out)
    for name, number in whole.items():
        assert abs(held[name] - 0.25 * number) <= 2, (name, held[name], number)  # pieces of two do not fit always
    for a, b in itertools.product(parts["train"].pictures, parts["held-out"].pictures):
        for other in (b.print.bits, b.print.mirrored):
            assert (a.print.bits != other).sum() > alike.ALIKE_BITS, (a.file, b.file)
    assert all(len(group) > 1 for group in found.together)


def test_the_same_seed_divides_alike_and_another_does_not(icons, tmp_path):
    first, again, other = (
        [p.name for p in data.split_folder(icons, tmp_path / str(i), 0.2, seed).held_out]
        for i, seed in enumerate((5, 5, 6))
    )
    assert first == again != other


def test_a_burst_is_not_divided(tmp_path):
    wide = scene(7, 512)
    (tmp_path / "mine").mkdir()
    for i in range(5):
        wide.crop((5 * i, 0, 5 * i + 128, 128)).save(tmp_path / "mine" / f"shot{i}.png")
    for i in range(14):
        scene(50 + i, 128).save(tmp_path / "mine" / f"z{i:02}.png")
    for seed in range(5):
        found = data.split_folder(tmp_path / "mine", tmp_path / f"sets{seed}", 0.3, seed)
        sides = [sum(p.name.startswith("shot") for p in part) for part in (found.train, found.held_out)]
        assert sorted(sides) == [0, 5]
        assert len(found.held_out) == 6 if sides[0] == 0 else len(found.held_out) <= 6


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_that_is_none_is_refused(icons, tmp_path, share):
    with pytest.raises(ValueError, match=f"share must lie between 0 and 1, got {share}"):
        data.split_folder(icons, tmp_path / "sets", share)


def test_a_folder_of_one_burst_cannot_be_divided(tmp_path):
    (tmp_path / "mine").mkdir()
    for i in range(4):
        scene(1).resize((90 + i, 90)).save(tmp_path / "mine" / f"{i}.png")
    with pytest.raises(ValueError, match=r"a share of 0.5 of 4 pictures, .* leaves one part empty"):
        data.split_folder(tmp_path / "mine", tmp_path / "sets", 0.5)
    assert not (tmp_path / "sets").exists()


def test_a_folder_with_broken_files_is_not_divided(folder, tmp_path):
    with pytest.raises(ValueError, match=r"torn\.jpg cannot be read as an image .*; split a clean copy"):
        data.split_folder(folder, tmp_path / "sets", 0.5)


# What goes wrong -----------------------------------------------------------------------------------------------


def test_what_is_no_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        data.check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in"):
        data.check(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 files in .* can be read as an image, not even .*a\.png"):
        data.check(tmp_path)
    with pytest.raises(ValueError, match="smallest must be a whole number of at least 1, got 0"):
        data.check(tmp_path, smallest=0)


def test_the_package_that_hashes_is_asked_for_by_name(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusion-book\[folder\]'"):
        data.check(folder)
