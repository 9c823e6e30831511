"""`diffusion-book evaluate`: how far a model's pictures are from the data, beside how far real pictures are."""

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A name of the zoo, the folder of a run, or a .safetensors file.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The report; a .md and a .png of the same name lie beside it.")
    ] = Path("report.json"),
    count: Annotated[int, typer.Option("--count", "-n", min=50, help="Pictures for each seed.")] = 10_000,
    seeds: Annotated[int, typer.Option(min=1, help="How often; three or more show how much is chance.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 18,
    sampler: Annotated[
        str, typer.Option(help="dpm_solver, unipc, heun, euler, euler_ancestral, ddim or ddpm.")
    ] = "dpm_solver",
    guidance: Annotated[float, typer.Option(help="As in sample; 1 is none.")] = 1.0,
    bad_model: Annotated[str | None, typer.Option(help="Guide away from this worse model.")] = None,
    interval: Annotated[
        tuple[float, float], typer.Option(help="Guide only where the noise σ is above the first, up to the second.")
    ] = (0.0, math.inf),
    precision: Annotated[
        str, typer.Option(help="Of the network: fp32, bf16, or auto, which suits the device.")
    ] = "auto",
    extractor: Annotated[
        str, typer.Option(help="A classifier whose features are compared, as for --model; or pixels.")
    ] = "mnist-classifier",
    accuracy: Annotated[
        bool, typer.Option(help="Train classifiers on the first seed's pictures and on real ones, which takes minutes.")
    ] = True,
    card: Annotated[
        bool, typer.Option("--card", help="Write the numbers into the card of the model's weights.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once; changes memory, not pictures.")] = 250,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … [default: the GPU if there is one]")] = None,
) -> None:
    """Measure a model: distances, precision and recall, copies of training pictures, and the same for real pictures."""
    if out.suffix != ".json":
        raise ValueError(f"{out} must end in .json; a .md and a .png are written beside it")

    from diffusion_book.cli import drawing, measuring, models, pictures
    from diffusion_book.cli.devices import pick_device

    pictures.check_writable(out)

    where = pick_device(device)
    found = models.find(model, where)
    weights = models.weights_with_card(model) if card else None
    bad = None if bad_model is None else models.find(bad_model, where)
    guided = drawing.Guidance(guidance, bad, *interval)
    how = measuring.Sampling(
        sampler, steps, guided, count, seeds, measuring.precision_of(precision), batch_size, accuracy
    )
    reports = measuring.measure(found, how, extractor, model)
    measuring.write(reports, out)
    if weights is not None:
        measuring.into_card(reports, weights, _as_typed(context))
    typer.echo(measuring.markdown(reports))
    typer.echo(f"report: {out}, {out.with_suffix('.md')}, {out.with_suffix('.png')}")


def _as_typed(context: typer.Context) -> str:
    """The command line that was given, but for where the report went: whoever types it measures the same again."""
    words = ["diffusion-book", "evaluate"]
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name == "out":
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [option.opts[0], *map(str, values)]
    return shlex.join(words)
