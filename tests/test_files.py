"""Files on a full disk: what was there before still is, the error names the file, and nothing is left behind."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from _support.full_disk import disk_with_room_for
from diffusion_book import models, nn
from diffusion_book._files import expanded, locked, sync, whole, write_whole
from diffusion_book.data import pictures
from diffusion_book.data.images import to_uint8
from diffusion_book.evaluation import Origin, Report, reference, summary
from diffusion_book.evaluation.report import Pictures


def noise(n: int, side: int = 32) -> torch.Tensor:
    """Images that no compression makes small."""
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def classifier(path: Path) -> None:
    with torch.random.fork_rng():
        models.save(path, nn.Classifier(nn.ClassifierConfig(channels=4, features=6)))


def grid(path: Path) -> None:
    pictures.write(noise(9), path, 3, range(9))


def report(path: Path) -> None:
    summary.write({"one number": list(range(500))}, [], path)


def report_alone(path: Path) -> None:
    parts = ((), (), {}, {}, None, {}, {}, {}, tuple(range(500)), {})
    x = noise(1)
    Report("distance", 0, Origin("none", "none", 0, 1.0, 0), *parts, Pictures(x, x, x)).to_json(path)


def statistics(path: Path) -> None:
    reference._write(path, {"data": "made up"}, {"x": noise(9).numpy()})


WRITERS = {
    "weights.safetensors": classifier,
    "samples.png": grid,
    "samples.jpg": grid,
    "samples.npy": grid,
    "samples.npz": grid,
    "report.json": report,
    "distance.json": report_alone,
    "moments.npz": statistics,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_costs_nothing_that_was_there(name, tmp_path):
    path = tmp_path / "deep" / name
    write = WRITERS[name]
    with disk_with_room_for(1000), pytest.raises(OSError, match=f"{path} could not be written .*File too large"):
        write(path)
    assert list(path.parent.iterdir()) == []
    write(path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert len(before[name]) > 1000
    with disk_with_room_for(1000), pytest.raises(OSError, match="could not be written"):
        write(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_of_a_folder_of_pictures_those_that_are_there_are_whole(tmp_path):
    """The second is too large for the disk."""
    x = torch.stack([-torch.ones(3, 32, 32), noise(1)[0]])
    with disk_with_room_for(1000), pytest.raises(OSError, match=r"000008\.png could not be written"):
        pictures.write(x, tmp_path / "samples", 1, [7, 8])
    assert [file.name for file in (tmp_path / "samples").iterdir()] == ["000007.png"]


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    """Also for root, whom permissions do not bind: under a file, under /proc, and where a folder is."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    for path in (tmp_path / "file" / "x.json", Path("/proc/x.json"), tmp_path / "folder"):
        with pytest.raises(OSError, match=f"{path} could not be written") as error:
            write_whole(path, b"new")
        assert not str(error.value).endswith("make room")  # which would not help
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "full"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not Linux")
def test_room_is_asked_for_where_there_is_none(tmp_path):
    def fill() -> None:
        with whole(tmp_path / "x.json"):
            Path("/dev/full").write_bytes(b"no room")

    with pytest.raises(OSError, match=r"x\.json could not be written \(.*No space left on device.*\); make room$"):
        fill()


def test_a_picture_that_is_too_tall_for_its_form_is_not_told_to_make_room(tmp_path):
    """A JPEG has at most 65,500 rows."""
    with pytest.raises(OSError, match=r"x\.jpg could not be written") as error:
        pictures.write(noise(3000, side=20), tmp_path / "x.jpg", 1, range(3000))
    assert "room" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    """The last to end wins, and each has a file of its own until then."""
    path = tmp_path / "x.json"
    with whole(path) as first:
        first.write_text("first")
        with whole(path) as second:
            second.write_text("second")
            assert first.read_text() == "first"
            assert {first.suffix, second.suffix} == {".json"}
        assert path.read_text() == "second"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.json", "first")]


def test_a_link_is_followed(tmp_path):
    """To a file that is there, and to one that is not yet, in another folder."""
    (tmp_path / "there").write_text("old")
    for target in (tmp_path / "there", tmp_path / "deep" / "new"):
        link = tmp_path / f"link-{target.name}"
        link.symlink_to(target)
        write_whole(link, b"new")
        assert link.is_symlink()
        assert target.read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 5


def test_a_file_has_the_permissions_of_any_other_or_those_that_it_had(tmp_path):
    path = tmp_path / "x.json"
    before = os.umask(0o027)
    try:
        write_whole(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_whole(path, b"newer")
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_what_stops_a_block_stops_the_file(tmp_path):
    path = tmp_path / "x.txt"
    write_whole(path, b"old")

    def stopped() -> None:
        with whole(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.txt", b"old")]


@pytest.mark.parametrize("name", ["A.NPZ", "a.Npz", "A.NPY", "A.PNG", "a.JPG"])
def test_the_case_of_an_ending_does_not_matter(name, tmp_path):
    """numpy adds .npz to a name that ends otherwise, and .NPZ does."""
    x = noise(2)
    pictures.write(x, tmp_path / name, 2, [5, 6])
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if name.lower().endswith(".npz"):
        with np.load(tmp_path / name) as found:
            assert found["seeds"].tolist() == [5, 6]
            assert np.array_equal(found["arr_0"], to_uint8(x).permute(0, 2, 3, 1).numpy())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="not Linux")
def test_a_folder_that_cannot_be_synced_has_been_written_to():
    """As on a Windows share: there is no such thing, and that is no failure."""
    descriptor = os.open("/proc/self", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        os.fsync(descriptor)
    os.close(descriptor)
    sync(Path("/proc/self"))


def test_a_failing_disk_is_still_told(tmp_path, monkeypatch):
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"x\.json could not be written .*Input/output error"):
        write_whole(tmp_path / "x.json", b"new")
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_that_may_not_be_listed_can_be_written_to():
    """Root may list all, so it becomes nobody for a moment."""
    us = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o333)
        try:
            if us == 0:
                os.seteuid(65534)
            write_whole(Path(name) / "x.json", b"new")
            with locked(Path(name)):  # or not: nothing is asked of it
                assert (Path(name) / "x.json").read_bytes() == b"new"
        finally:
            os.seteuid(us)


MOUNTED = """
mount --bind "$1" "$2" || exit 77
"$0" -c "
import sys
from pathlib import Path
from diffusion_book._files import write_whole
try:
    Path(sys.argv[1]).with_name('other').replace(sys.argv[1])
except OSError as error:
    print(error.strerror)
write_whole(Path(sys.argv[1]), b'new')
" "$2" && cat "$2"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="not Linux")
def test_a_file_that_was_mounted_by_itself_is_written_into(tmp_path):
    """As into a container: it is busy, so nothing can be renamed over it."""
    for name in ("outside", "inside", "other"):
        (tmp_path / name).write_text(f"{name}, and longer than what is written")
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    command = [*namespace, "sh", "-c", MOUNTED, sys.executable, tmp_path / "outside", tmp_path / "inside"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode in (1, 77) and "Device or resource busy" not in done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.stdout == "Device or resource busy\nnew", done.stderr
    assert (tmp_path / "outside").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "other", "outside"]


@pytest.mark.skipif(os.name != "posix", reason="folders can be locked on POSIX")
def test_one_at_a_time_is_in_a_locked_folder(tmp_path):
    with locked(tmp_path):
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pytest.fail("two were in it")
        with locked(tmp_path.parent):
            pass
    with locked(tmp_path):  # it is free again
        assert list(tmp_path.iterdir()) == []  # and nothing is left in it


def test_home_is_found_wherever_a_path_is_written_to(tmp_path, monkeypatch):
    """A program has no shell that would know `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name, write in WRITERS.items():
        write(Path("~") / name)
        assert (tmp_path / "home" / name).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert expanded("a/~/b") == Path("a/~/b")
    assert expanded("~nobody-of-this-name/b") == Path("~nobody-of-this-name/b")
