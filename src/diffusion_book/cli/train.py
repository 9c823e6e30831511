"""`diffusion-book train`: a run from a configuration, from options, or from both."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

FOLDER = {"size": 32, "batch_size": 64, "learning_rate": 2e-3, "preview_every": 250, "checkpoint_every": 250}
"""What a folder of pictures is trained with where nobody says otherwise: enough to see something within minutes."""


def train(
    config: Annotated[Path | None, typer.Option(help="A .toml, .yaml or .json file; options go before it.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="mnist-5k, icons, mnist, fashion-mnist, cifar10, or folder:PATH for your own pictures."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels, for a folder. [default: 32]")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out a folder's files that cannot be read.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run. [default: runs/NAME]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimiser. [default: 2000]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step. [default: 128, of a folder 64]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak. [default: 1e-3, for a folder 2e-3]")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16, or on CUDA fp16. [default: auto]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random number. [default: 0]")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other field of RunConfig: ema_decay=0.99, network.channels=64. May be repeated.",
        ),
    ] = None,
) -> None:
    """Train a model; it ends with a picture, samples.png, in the folder of the run.

    \b
    Your own, of any sizes:     `diffusion-book train --data folder:my/pictures`
    A run that was stopped:     the same command with --resume
    Its curves:                 `pip install 'diffusion-book[train]'`, `tensorboard --logdir runs`
    Several GPUs:               `accelerate launch -m diffusion_book.cli train …`

    Several machines need the run's folder on a disk that they share, or --resume each a copy of it.

    On a CPU, accelerate starts one process, whatever number it is given, unless it is asked for two like this:

    \b
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\
      -m diffusion_book.cli train …
    """
    given = {
        "data": data,
        "size": size,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "seed": seed,
        "skip_broken": skip_broken or None,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for text in more or []:
        _put(options, *_parse(text))

    from diffusion_book.cli import runs
    from diffusion_book.training import RunConfig
    from diffusion_book.training.config import build_data

    values: dict[str, Any] = {} if config is None else RunConfig.from_file(config).to_dict()
    folder = out or Path("runs") / _name(config, options.get("data", "mnist-5k"))
    if config is None and resume and (folder / "config.json").is_file():
        values = RunConfig.from_file(folder / "config.json").to_dict()
    elif config is None and resume and "data" not in options:
        raise ValueError(
            f"there is no run in {folder} to go on with; give its folder by --out, or leave --resume out to begin one"
        )
    elif config is None and str(options.get("data")).startswith("folder:"):
        values = dict(FOLDER)
    for name, value in options.items():
        both = name == "network" and isinstance(value, dict) and "kind" not in value
        values[name] = {**_network(values), **value} if both else value
    wanted = RunConfig.from_dict(values, "the options")
    images = build_data(wanted)
    found = {"size": runs.side_of(wanted, images), "class_names": list(images.class_names if wanted.labels else ())}
    wanted = RunConfig.from_dict({**wanted.to_dict(), **found})
    runs.run(wanted, folder, resume, images)


def _network(values: dict[str, Any]) -> dict[str, Any]:
    return dict(values.get("network", {"kind": "unet", "size": "digits"}))


def _parse(text: str) -> tuple[list[str], Any]:
    """`network.channels=32` → (["network", "channels"], 32). Values are written as in TOML; bare words are texts."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set takes KEY=VALUE, such as ema_decay=0.99, got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return key.strip().split("."), parsed


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    *above, last = keys
    for key in above:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {'.'.join(keys)}: {key} has no parts")
    if last in values and values[last] != value:
        raise ValueError(f"{'.'.join(keys)} is given twice, as {values[last]!r} and as {value!r}; leave one out")
    values[last] = value


def _name(config: Path | None, data: str) -> str:
    if config is not None:
        return config.stem
    return Path(data.removeprefix("folder:")).resolve().name if data.startswith("folder:") else data
