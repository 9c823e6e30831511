"""Files on a full disk: what was there before still is, the error names the file, and nothing is left behind."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffusion_book import nn, zoo
from diffusion_book._files import whole, write_whole
from diffusion_book.cli import measuring, pictures


@contextlib.contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """Files that grow beyond this raise an OSError in the middle of a write, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(n: int, side: int = 32) -> torch.Tensor:
    """Images that no compression makes small."""
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def classifier(path: Path) -> None:
    with torch.random.fork_rng():
        zoo.save(path, nn.Classifier(nn.ClassifierConfig(channels=4, features=6)))


def grid(path: Path) -> None:
    pictures.write(noise(9), path, 3, range(9))


def report(path: Path) -> None:
    measuring.write({"one number": list(range(500))}, [], path)


WRITERS = {
    "weights.safetensors": classifier,
    "samples.png": grid,
    "samples.jpg": grid,
    "samples.npy": grid,
    "samples.npz": grid,
    "report.json": report,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_costs_nothing_that_was_there(name, tmp_path):
    path = tmp_path / "deep" / name
    write = WRITERS[name]
    with disk_with_room_for(1000), pytest.raises(OSError, match="make room") as first:
        write(path)
    assert f"{path} could not be written" in str(first.value)
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
        with pytest.raises(OSError, match=f"{path} could not be written"):
            write_whole(path, b"new")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "full"]
    assert (tmp_path / "file").read_text() == "kept"


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
