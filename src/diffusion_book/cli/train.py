"""`diffusion-book train`: a run from a configuration, from options, or from both."""

import contextlib
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_book._files import expanded, whole

if TYPE_CHECKING:
    from diffusion_book.data import Examples
    from diffusion_book.training import RunConfig, Trainer

FOLDER = {"size": 32, "batch_size": 64, "learning_rate": 2e-3, "preview_every": 250, "checkpoint_every": 250}
"""What a folder of pictures is trained with where nobody says otherwise: enough to see something within minutes."""

OF_SCENES = ("batch_size", "learning_rate", "warmup", "ema_decay")
"""What is taken from the recipe of `scenes-unet` where nobody says otherwise, with its network and its objective."""

TABLES: dict[str, dict[str, Any]] = {"network": {"kind": "unet", "size": "digits"}, "objective": {}}
"""What an option such as --set network.channels=64 is a part of, and what the rest of it is where nobody says."""


def train(
    config: Annotated[Path | None, typer.Option(help="A .toml, .yaml or .json file; options go before it.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="mnist-5k, icons, scenes, mnist, fashion-mnist, cifar10, or folder:PATH for your own."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels, for a folder or scenes. [default: 32]")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out a folder's files that cannot be read.")
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(
            help="folders: the subfolders are classes. captions: cat.txt beside cat.png, or metadata.csv "
            "(file_name,text), says what is to be seen."
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            help="Pictures to measure the loss on, not to train on: folder:PATH, or the test split of a name."
        ),
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Fine-tune: a name of the zoo, the folder of a run, or a .safetensors file.")
    ] = None,
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
            help="Any other field of RunConfig: ema_decay=0.99, network.channels=64, objective.T=500. Repeatable.",
        ),
    ] = None,
) -> None:
    """Train a model; it ends with pictures, samples.png, and its losses, curve.png, in the folder of the run.

    \b
    Your own, of any sizes:     `diffusion-book train --data folder:my/pictures`
    With captions of yours:     `diffusion-book train --data folder:my/pictures --labels captions`
    Captioned by us:            `diffusion-book train --data scenes --steps 40000`
    A run that was stopped:     the same command with --resume
    One that is to go on:       `… --out runs/pictures --resume --steps 20000`
    From other weights:         `… --start-from icons-unet`
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
        "labels": labels,
        "held_out": held_out,
        "start_from": start_from,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for text in more or []:
        _put(options, *_parse(text))

    from diffusion_book.training import RunConfig
    from diffusion_book.training.config import READERS, build_data, grouped, words_of

    values: dict[str, Any] = {} if config is None else RunConfig.from_file(config).to_dict()
    folder = expanded(out) if out else Path("runs") / _name(config, options.get("data", "mnist-5k"))
    if config is None and resume and (folder / "config.json").is_file():
        values = RunConfig.from_file(folder / "config.json").to_dict()
    elif config is None and resume and "data" not in options:
        raise ValueError(f"there is no run in {folder} to go on with; give its folder by --out, or leave --resume out")
    elif config is None:
        values = _where_nobody_says(str(options.get("data")), options.get("labels"), options.get("start_from"))
    for name, value in grouped(options).items():
        part = name in TABLES and isinstance(value, dict) and "kind" not in value
        values[name] = {**values.get(name, TABLES[name]), **value} if part else value
    wanted = RunConfig.from_dict(values, "the options")
    images = build_data(wanted)
    found: dict[str, Any] = {
        "size": _side(wanted, images),
        "class_names": list(getattr(images, "class_names", ()) if wanted.labels else ()),
    }
    if wanted.network["kind"] in READERS:
        found["network"] = {**words_of(wanted, images), **wanted.network}
    wanted = RunConfig.from_dict({**wanted.to_dict(), **found})
    start(wanted, folder, resume, images)


def _where_nobody_says(data: str, labels: str | None, start_from: str | None) -> dict[str, Any]:
    """Values for a folder of pictures or for captions, and those of the model that a run starts from."""
    values = dict(FOLDER) if data.startswith("folder:") else {}
    if data == "scenes" or labels == "captions":
        from diffusion_book import zoo
        from diffusion_book.training import RunConfig

        recipe = RunConfig.from_file(zoo.recipe("scenes-unet")).to_dict()
        if labels == "captions":  # its words are others
            for name in ("vocabulary", "length"):
                del recipe["network"][name]
        values |= {name: recipe[name] for name in ("network", "objective", *OF_SCENES)}
    if start_from is None:
        return values
    from diffusion_book import models

    known = models.like(start_from)
    return values | {name: value for name, value in known.items() if name != "size" or "size" in values}


def start(config: "RunConfig", folder: Path, resume: bool, images: "Examples | None" = None) -> "Trainer":
    """Train to the last step, and end with `curve.png`, and `samples.png` where the network draws, in the folder.

    Raises:
        KeyboardInterrupt: the person did; the message says how to go on.
    """
    from diffusion_book import models

    trainer = models.trainer_of(config, folder, images)
    first = trainer.accelerator.is_main_process
    if first:
        typer.echo(_summary(trainer))
        if not trainer.accelerator.log_with:
            typer.echo(
                "curves: none, TensorBoard is not installed (pip install 'diffusion-book[train]'); see log.jsonl"
            )
    averaged = None
    with contextlib.suppress(KeyboardInterrupt):
        averaged = trainer.run(resume)
    if averaged is None:
        raise KeyboardInterrupt(_stopped(trainer))
    if first and (folder / "log.jsonl").stat().st_size:  # it has no line where somebody took the log away
        with trainer.writing():
            _draw_curve(folder)
        typer.echo(f"losses: {folder / 'curve.png'}")
    if trainer.preview and first:
        with trainer.writing():
            trainer.preview(averaged, folder / "samples.png")
        more = f"; more of them: {_more(config, folder, averaged, trainer.data)}" if config.denoises else ""
        typer.echo(f"pictures: {folder / 'samples.png'}{more}")
    return trainer


def _draw_curve(folder: Path) -> None:
    import matplotlib.pyplot

    from diffusion_book import viz

    matplotlib.use("Agg")  # into a file: no screen is needed
    viz.use_style()
    figure = viz.show_losses(folder)
    with whole(folder / "curve.png") as unfinished:
        figure.savefig(unfinished)
    matplotlib.pyplot.close(figure)


def _more(config: "RunConfig", folder: Path, network: Any, images: "Examples") -> str:
    """The command that draws more of such pictures."""
    classes = network.config.classes if config.denoising.condition_dropout == 0 else 0  # else it can draw without
    wanted = f" --class {','.join(map(str, range(min(classes, 10))))}" if classes else ""
    if config.network["kind"] == "text-unet":
        from diffusion_book.models.preview import captions_to_draw

        said = "a small red cat left of a big blue key, on white"
        said = captions_to_draw(images)[0] if config.labels == "captions" else said
        wanted = f" --prompt {shlex.quote(said)} --guidance 3"
    return f"diffusion-book sample --model {folder}{wanted}"


def _side(config: "RunConfig", images: "Examples") -> int | None:
    """The side of a folder's images, to be kept with the run: without it nobody knows later what to sample."""
    from diffusion_book.data import DATASETS

    if config.data in DATASETS or config.size is not None:
        return config.size
    height, width = images.shape[1:]
    if height != width:
        raise ValueError(f"the images are {width}×{height} pixels; give size, to crop them to squares of that side")
    return int(height)


def _summary(trainer: "Trainer") -> str:
    shape, what = "×".join(map(str, trainer.data.shape)), "latents" if trainer.config.codec else "images"
    network = trainer.accelerator.unwrap_model(trainer.network)
    weights = sum(parameter.numel() for parameter in network.parameters())
    processes = trainer.accelerator.num_processes
    held_out = f", {len(trainer.held_out.data)} more held out" if trainer.held_out else ""
    where = trainer.device if processes == 1 else f"{processes} × {trainer.device.type}"
    return (
        f"{trainer.folder}: {len(trainer.data)} {what} {shape} of {trainer.config.data}{held_out}, "
        f"{trainer.config.network['kind']} of {weights / 1e6:.2g} M weights, on {where}"
    )


def _stopped(trainer: "Trainer") -> str:
    from diffusion_book.training import checkpoint

    last = checkpoint.latest(trainer.folder / "checkpoints")
    if last is None:
        return f"stopped at step {trainer.step}, before the first checkpoint; nothing is kept"
    return f"stopped at step {trainer.step}; the same command with --resume goes on from {last}"


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
    return expanded(data.removeprefix("folder:")).resolve().name if data.startswith("folder:") else data
