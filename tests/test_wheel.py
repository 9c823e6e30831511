"""What `pip install` of the built wheel gives to someone who has no network and not this repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_book import models
from diffusion_book.data.images import from_uint8

ROOT = Path(__file__).parents[1]

OFFLINE = """
import socket

def refuse(*_, **__):
    raise OSError("there is no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""

PROBE = """
import importlib.util, socket
print(importlib.util.find_spec("diffusion_book").origin)
try:
    socket.create_connection(("192.0.2.1", 80), 1)  # an address that is nobody's
except OSError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel holds, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "book" / "recorded").mkdir(parents=True)
    (source / "book" / "recorded" / "throws.json").write_text("{}")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def test_recorded_results_are_in_the_wheel(installed, tmp_path):
    (wheel,) = installed.parent.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "install"]
    subprocess.run([*pip, "--no-deps", "--ignore-installed", "--prefix", tmp_path, wheel], check=True)
    (package,) = tmp_path.glob("**/diffusion_book/__init__.py")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from diffusion_book import page; print(*page._record_files().values())"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(run.stdout.strip()).read_text() == "{}", run.stderr


def without_network() -> list[str]:
    """The words before a command that leave it no network but a loopback that is down, where a kernel allows that."""
    words = ["unshare", "--map-root-user", "--net"]
    found = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if found else []


def test_the_installed_command_draws_sevens_offline(installed, tmp_path):
    """As the README says it, from an empty folder. Our classifier reads 15 of the 16 as sevens."""
    offline = tmp_path / "offline"
    offline.mkdir()
    (offline / "sitecustomize.py").write_text(OFFLINE)
    (tmp_path / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),  # nothing that an earlier run has kept
        "PYTHONPATH": os.pathsep.join(map(str, (installed, offline))),
        "OMP_NUM_THREADS": "1",
    }

    def run(*words: object) -> str:
        command = [*without_network(), sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where, said = run("-c", PROBE).splitlines()
    assert Path(where).is_relative_to(installed)
    assert said == "there is no network here"

    sample = [installed / "bin" / "diffusion-book", "sample", "--model", "mnist-unet", "--class", "7", "--steps", "18"]
    assert "16 pictures: seven.png" in run(*sample, "-o", "seven.png")
    assert (tmp_path / "seven.png").stat().st_size > 1000
    run(*sample, "-o", "seven.npz")
    assert reads(tmp_path / "seven.npz", 7) >= 0.9


def reads(path: Path, digit: int) -> float:
    """The share of pictures that our classifier takes for a digit."""
    pixels = torch.from_numpy(np.load(path)["arr_0"]).movedim(-1, 1)
    with torch.no_grad():
        found = models.load_classifier("mnist-classifier").network(from_uint8(pixels)).argmax(1)
    return (found == digit).double().mean().item()
