"""`diffusion-book evaluate`: how far a model's pictures are from the data, beside how far real pictures are."""

import math
import shlex
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from diffusion_book.cli import options

if TYPE_CHECKING:
    from diffusion_book.evaluation import Report
    from diffusion_book.training.precision import Precision

OF_CLASSIFIERS = ("model", "out", "card", "held_out", "device")
OF_BITS = (*OF_CLASSIFIERS, "count", "bits", "batch_size")
"""The options that have a use where nothing is drawn."""


def evaluate(
    context: typer.Context,
    model: options.Model,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The report; a .md and a .png of the same name lie beside it. [default: report.json, of a run in its "
            "folder]",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=0,
            help="Pictures for each seed, 50 or more; 0 leaves them out. [default: half as many as there are real "
            "ones, 10,000 at most]",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often; three or more show how much is chance.")] = 3,
    steps: options.Steps = 18,
    sampler: options.Sampler = "dpm_solver",
    guidance: Annotated[float, typer.Option(help="1 is none.")] = 1.0,
    bad_model: Annotated[str | None, typer.Option(help="Guide away from this worse model.")] = None,
    interval: options.Interval = (0.0, math.inf),
    precision: Annotated[
        str, typer.Option(help="Of the network: fp32, bf16, fp16 (CUDA), or auto, which suits the device.")
    ] = "auto",
    extractor: Annotated[
        str | None,
        typer.Option(
            help="A classifier whose features are compared, as for --model; edges, pixels or inception. [default: "
            "mnist-classifier for MNIST's digits, else edges]"
        ),
    ] = None,
    accuracy: Annotated[
        bool, typer.Option(help="Train classifiers on the first seed's pictures and on real ones, which takes minutes.")
    ] = False,
    held_out: Annotated[
        str | None,
        typer.Option(
            help="Real pictures that the model has not seen: folder:PATH, or a name of data list. [default: those "
            "that its run was told to hold out, or its data set's own]"
        ),
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
    device: options.Device = None,
) -> None:
    """Measure a model: distances, precision and recall, copies of training pictures, and the same for real pictures.

    A classifier is measured by its accuracy on held-out pictures, a clip by how often it finds the caption; what is
    said of samples is not for them.
    """
    out = out or report_of(model)
    if out.suffix != ".json":
        raise ValueError(f"{out} must end in .json; a .md and a .png are written beside it")

    from diffusion_book import models
    from diffusion_book.data import pictures
    from diffusion_book.evaluation import of_model, summary
    from diffusion_book.evaluation.retrieval import retrieval
    from diffusion_book.nn import weights_sha256

    where = options.pick_device(device)
    found = models.load_any(model, where)
    weights = models.weights_with_card(model) if card else None
    if weights is not None:
        pictures.check_writable(weights.with_suffix(".json"), "leave --card out")
    for file in (out, out.with_suffix(".md"), out.with_suffix(".png")):
        pictures.check_writable(file)
    reports = []
    if isinstance(found, models.TrainedAutoencoder):
        raise ValueError("an autoencoder draws nothing; evaluate a model that was trained on its latents")
    if isinstance(found, models.TrainedClassifier):
        _check_used(context, OF_CLASSIFIERS, "a classifier draws nothing and is measured by its accuracy")
        numbers = of_model.measure_classifier(found, model, of_model.real_images(found.card, held_out)[1])
    elif isinstance(found, models.TrainedClip):
        _check_used(context, OF_CLASSIFIERS, "a clip draws nothing and is measured by what it finds")
        numbers = retrieval(found)
    else:
        if count is not None and (0 < count < 50 or not (count or any(bits))):
            raise ValueError(f"--count must be 50 or more, or 0 beside --bits, got {count}")
        if count == 0:
            _check_used(context, OF_BITS, "--count 0 draws nothing and leaves bits per dimension alone")
        train, unseen = of_model.real_images(found.card, held_out, labelled=accuracy)
        count = of_model.usual_count(train, unseen) if count is None else count
        pending: Iterator[Report] = iter(())
        if count:
            bad = None if bad_model is None else models.load(bad_model, where)
            guided = models.Guidance(guidance, interval, bad)
            how = of_model.Sampling(sampler, steps, guided, count, seeds, _precision(precision), batch_size, accuracy)
            looks = of_model.extractor_of(extractor or of_model.usual_extractor(train), train.shape, where)
            pending = of_model.measure(found, how, looks, model, train, unseen)
        # All that could be wrong is told by now; what takes minutes comes before what takes an hour.
        likelihood = {summary.BITS: of_model.bits(found, *bits, unseen, batch_size)} if any(bits) else {}
        reports = list(pending)
        numbers = {**(summary.together(reports) if reports else {}), **likelihood}
    of, command = weights_sha256(found.network), _as_typed(context)
    written = summary.write(numbers, reports, out, {"weights_sha256": of, "command": command})
    if weights is not None:
        summary.into_card(found.card, numbers, of, command).write(weights)
    typer.echo(summary.markdown(numbers, reports))
    if reports:  # last, for nothing that was measured hangs on it
        written.append(_draw(reports[0], out.with_suffix(".png")))
    typer.echo(f"report: {', '.join(map(str, written))}")


def report_of(model: str) -> Path:
    """Where the report of a model lies if nobody says: that of a run in its folder, where `card` looks for it."""
    from diffusion_book._files import expanded

    folder = expanded(model)
    return folder / "report.json" if (folder / "config.json").is_file() else Path("report.json")


def _draw(report: "Report", path: Path) -> Path:
    import matplotlib

    from diffusion_book import viz
    from diffusion_book._files import whole

    matplotlib.use("Agg")  # into a file: no screen is needed, nor what a notebook has left in MPLBACKEND
    viz.use_style()
    with whole(path) as unfinished:
        viz.show_report(report).savefig(unfinished)
    return path


def _precision(word: str) -> "Precision":
    from diffusion_book._names import check_known
    from diffusion_book.training.precision import Precision

    check_known("precision", word, get_args(Precision))
    found: Precision = word  # type: ignore[assignment]
    return found


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
