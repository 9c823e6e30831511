"""A report in words and tables. Chapter 12."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffusion_book.evaluation.neighbours import QUANTILES

if TYPE_CHECKING:
    from diffusion_book.evaluation.report import Measure, Report, Yardstick


def markdown(report: "Report") -> str:
    """The report as Markdown, for people."""
    o = report.origin
    made = f"by {o.sampler}, {o.nfe} evaluations each, guidance {o.guidance:g}, seed {o.seed}"
    lines = [
        f"# {report.name} of {o.model}",
        "",
        f"{report.n:,} samples {made}. {o.notes}".strip(),
        "",
        f"| | samples | real against real, mean ± sd of {len(report.seeds)} | N | reference |",
        "|---|---|---|---|---|",
        *map(_measure_row, report.measures),
        "",
        f"| {report.name} of held-out images | | N |",
        "|---|---|---|",
        *map(_yardstick_row, report.yardsticks),
        f"| for comparison: three times real against real | {3 * report.measures[0].real.mean:.4g} | {report.n:,} |",
        "",
        "| distance to the nearest training image | " + " | ".join(f"{q:.0%}" for q in QUANTILES) + " |",
        "|---" * (len(QUANTILES) + 1) + "|",
    ]
    for kind, found in report.memorisation.items():
        lines += [_row(f"samples, by {kind}", found.samples), _row(f"held out, by {kind}", found.held_out)]
    lines += ["", *_sentences(report)]
    return "\n".join(lines) + "\n"


def _measure_row(m: "Measure") -> str:
    interval = f" [{m.interval[0]:.3g}, {m.interval[1]:.3g}]" if m.interval else ""
    name = f"{m.name} {'↓' if m.lower_is_better else '↑'}"
    real = f"{m.real.mean:.4g} ± {m.real.sd:.2g}"
    return f"| {name} | {m.value:.4g}{interval} | {real} | {m.n:,} | {m.n_reference:,} |"


def _yardstick_row(y: "Yardstick") -> str:
    what = f"with noise of {y.noise:g}, cut to [−1, 1]" if y.noise else "as they are"
    return f"| {what} | {y.value:.4g} | {y.n:,} |"


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3g}" for value in values) + " |"


def _sentences(report: "Report") -> Iterator[str]:
    """What is no table: one paragraph each."""
    for kind, found in report.memorisation.items():
        yield (
            f"By {kind}, {found.copies:.2%} of {report.memorisation_n[kind]:,} samples are copies, "
            f"{found.suspicious:.2%} are nearer to the training set than all but 1 % of held-out images, and a sample "
            f"is nearer than a held-out image with probability {found.nearer:.3f}.\n"
        )
    if report.accuracy_score:
        ours, real = (report.accuracy_score[key] for key in ("samples", "real"))
        yield (
            f"Classification accuracy score: {ours.mean:.2%} ± {ours.sd:.2%}; trained on as many real images "
            f"{real.mean:.2%} ± {real.sd:.2%}.\n"
        )
    distance = report.measures[0]
    if distance.n_real_reference < distance.n_reference:
        yield (
            f"{distance.name} of real against real is against {distance.n_real_reference:,} images only, all that are "
            "left, and so a little too large.\n"
        )
    e = report.extractor
    accuracy = "" if e["accuracy"] is None else f", {e['accuracy']:.2%} right on held-out images"
    yield f"Features: {e['name']}, {e['dim']} of them{accuracy}; images {e['preprocessing']}; SHA-256 {e['sha256']}.\n"
    for what, images in (("Reference", report.reference), ("Held out", report.held_out)):
        yield f"{what}: {images['name']}, {images['n']:,} images, SHA-256 {images['sha256']}.\n"
    software = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    yield f"Seeds {', '.join(map(str, report.seeds))}; {software}."
