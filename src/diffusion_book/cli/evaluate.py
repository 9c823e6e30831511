"""`diffusion-book evaluate`: how far a model's pictures are from the data, beside how far real pictures are."""

import math
import shlex
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diffusion_book.evaluation import Report

OF_CLASSIFIERS = ("model", "out", "card", "held_out", "device")
OF_BITS = (*OF_CLASSIFIERS, "count", "bits", "batch_size")
"""The options that have a use where nothing is drawn."""


def evaluate(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A name of the zoo, the folder of a run, or a .safetensors file.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The report; a .md and a .png of the same name lie beside it.")
    ] = Path("report.json"),
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="Pictures for each seed, 50 or more; 0 leaves them out.")
    ] = 10_000,
    seeds: Annotated[int, typer.Option(min=1, help="How often; three or more show how much is chance.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 18,
    sampler: Annotated[
        str, typer.Option(help="dpm_solver, unipc, heun, euler, euler_ancestral, ddim or ddpm.")
    ] = "dpm_solver",
    guidance: Annotated[float, typer.Option(help="1 is none.")] = 1.0,
    bad_model: Annotated[str | None, typer.Option(help="Guide away from this worse model.")] = None,
    interval: Annotated[
        tuple[float, float], typer.Option(help="Guide only where the noise σ is above the first, up to the second.")
    ] = (0.0, math.inf),
    precision: Annotated[
        str, typer.Option(help="Of the network: fp32, bf16, fp16 (CUDA), or auto, which suits the device.")
    ] = "auto",
    extractor: Annotated[
        str, typer.Option(help="A classifier whose features are compared, as for --model; pixels; or inception.")
    ] = "mnist-classifier",
    accuracy: Annotated[
        bool, typer.Option(help="Train classifiers on the first seed's pictures and on real ones, which takes minutes.")
    ] = True,
    held_out: Annotated[
        str | None,
        typer.Option(help="Real pictures that the model has not seen: folder:PATH, or a name of data list."),
    ] = None,
    bits: Annotated[
        tuple[int, int],
        typer.Option(min=0, help="Held-out images for bits per dimension: by the bound, and by the ODE."),
    ] = (0, 0),
    card: Annotated[
        bool, typer.Option("--card", help="Write the numbers into the card of the model's weights.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures at once, for bits 50 at most; changes memory, not pictures.")
    ] = 250,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … [default: the GPU if there is one]")] = None,
) -> None:
    """Measure a model: distances, precision and recall, copies of training pictures, and the same for real pictures.

    A classifier is measured by its accuracy on held-out pictures; what is said of samples is not for it.
    """
    if out.suffix != ".json":
        raise ValueError(f"{out} must end in .json; a .md and a .png are written beside it")

    from diffusion_book.cli import drawing, measuring, models, pictures
    from diffusion_book.cli.devices import pick_device

    where = pick_device(device)
    found = models.find(model, where)
    weights = models.weights_with_card(model) if card else None
    if weights is not None:
        pictures.check_writable(weights.with_suffix(".json"), "leave --card out")
    for file in (out, out.with_suffix(".md"), out.with_suffix(".png")):
        pictures.check_writable(file)
    reports = []
    if found.schedule is None:
        _check_used(context, OF_CLASSIFIERS, "a classifier draws nothing and is measured by its accuracy")
        summary = measuring.measure_classifier(found, model, measuring.real_images(found, held_out)[1])
    else:
        if 0 < count < 50 or not (count or any(bits)):
            raise ValueError(f"--count must be 50 or more, or 0 beside --bits, got {count}")
        if not count:
            _check_used(context, OF_BITS, "--count 0 draws nothing and leaves bits per dimension alone")
        train, unseen = measuring.real_images(found, held_out)
        pending: Iterator[Report] = iter(())
        if count:
            bad = None if bad_model is None else models.find(bad_model, where)
            guided = drawing.Guidance(guidance, bad, *interval)
            how = measuring.Sampling(
                sampler, steps, guided, count, seeds, measuring.precision_of(precision), batch_size, accuracy
            )
            pending = measuring.measure(found, how, extractor, model, train, unseen)
        # All that could be wrong is told by now; what takes minutes comes before what takes an hour.
        likelihood = {measuring.BITS: measuring.bits(found, *bits, unseen, batch_size)} if any(bits) else {}
        reports = list(pending)
        summary = {**(measuring.together(reports) if reports else {}), **likelihood}
    written = measuring.write(summary, reports, out)
    if weights is not None:
        measuring.into_card(summary, found, weights, _as_typed(context))
    typer.echo(measuring.markdown(summary, reports))
    typer.echo(f"report: {', '.join(map(str, written))}")


def _check_used(context: typer.Context, used: Container[str | None], why: str) -> None:
    """Raise a ValueError where an option was given that nothing would use, and that a card's command would repeat."""
    for option in context.command.params:
        if _was_typed(context, option.name) and option.name not in used:
            raise ValueError(f"{why}; leave {_words(context, option)[0]} out")


def _was_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _as_typed(context: typer.Context) -> str:
    """The command line that was given, but for what it writes: whoever types it measures again, and keeps the card."""
    words = ["diffusion-book", "evaluate"]
    for option in context.command.params:
        if _was_typed(context, option.name) and option.name not in ("out", "card"):
            words += _words(context, option)
    return shlex.join(words)


def _words(context: typer.Context, option: Any) -> list[str]:
    """An option and its values as they were typed, under its long name."""
    value = context.params[option.name]
    if isinstance(value, bool):
        return [option.opts[0] if value else option.secondary_opts[0]]
    return [option.opts[0], *map(str, value if isinstance(value, tuple) else (value,))]
