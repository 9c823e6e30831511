"""What the reports of several seeds say together, in names and numbers, in words, and in a model's card. Chapter 12."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_book._files import write_whole
from diffusion_book.evaluation.accuracy import Scores
from diffusion_book.evaluation.report import Report
from diffusion_book.evaluation.retrieval import RETRIEVED
from diffusion_book.models import Card

BITS = "bits per dimension"
SHARES = ("nearer", "suspicious", "copies")
"""Of `evaluation.Memorisation`: what goes into a card."""


def together(reports: list[Report]) -> dict[str, Any]:
    """Each measure's mean and standard deviation over the seeds, beside that of real images; and what it is of."""
    first = reports[0]
    found: dict[str, Any] = {}
    for i, measure in enumerate(first.measures):
        scores = Scores.of([report.measures[i].value for report in reports])
        found[measure.name] = {**_summary(scores), "N": measure.n, "real against real": _summary(measure.real)}
    found["held-out images with noise"] = {f"{y.noise:g}": y.value for y in first.yardsticks}
    found["memorisation"] = {
        kind: {**{share: getattr(memory, share) for share in SHARES}, "N": first.memorisation_n[kind]}
        for kind, memory in first.memorisation.items()
    }
    if first.accuracy_score:
        found["classification accuracy score"] = {k: _summary(v) for k, v in first.accuracy_score.items()}
    origin = first.origin
    found["measured by"] = {
        "sampler": origin.sampler,
        "evaluations": origin.nfe,
        "guidance": origin.guidance,
        "notes": origin.notes,
        "seeds of sampling": len(reports),
        "training runs": 1,
        "reference": first.reference["name"],
        "held out": first.held_out["name"],
        "extractor": f"{first.extractor['name']}, SHA-256 {first.extractor['sha256']}",
    }
    return found


def markdown(found: dict[str, Any], reports: list[Report]) -> str:
    """The first seed's report, and below it the others' numbers and what else was found."""
    lines = [reports[0].to_markdown()] if reports else []
    if len(reports) > 1:
        lines += [f"| over {len(reports)} seeds of sampling | mean ± sd |", "|---|---|"]
        for i, measure in enumerate(reports[0].measures):
            scores = Scores.of([report.measures[i].value for report in reports])
            lines.append(f"| {measure.name} | {scores.mean:.4g} ± {scores.sd:.2g} |")
    return "\n".join([*lines, *_bits_rows(found.get(BITS, {})), *_accuracy_rows(found), *_retrieval_rows(found)])


def _bits_rows(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        return
    yield f"\n| {BITS} ↓ | mean ± standard error | N | |\n|---|---|---|---|"
    for name in ("bound", "ODE"):
        if name in found:
            at = found[name]
            yield f"| {name} | {at['mean']:.4g} ± {at['standard error']:.2g} | {at['N']:,} | {at['how']} |"
    yield f"\nHeld out: {found['measured by']['held out']}. {found['measured by']['notes']}"


def _accuracy_rows(found: dict[str, Any]) -> Iterator[str]:
    if "accuracy by class" not in found:
        return
    of = found["measured by"]["classifier"]
    right = f"{found['accuracy']:.2%} ± {found['standard error']:.2%}"
    yield f"# {of['name']}: {right} right of {found['N']:,} images of {found['split']}\n"
    yield "| class | right |\n|---|---|"
    yield from (f"| {label} | {share:.2%} |" for label, share in found["accuracy by class"].items())
    yield f"\n{found['notes']} {found['measured by']['notes']}"
    yield f"\nSHA-256 of the file: {of['sha256'] or 'none'}; of the weights: {of['weights_sha256']}."


def _retrieval_rows(found: dict[str, Any]) -> Iterator[str]:
    if RETRIEVED[0] not in found:
        return
    yield f"| found first among {found['among']} | share | by chance |\n|---|---|---|"
    for name in RETRIEVED:
        share = f"{found[name]['mean']:.2%} ± {found[name]['standard error']:.2%}"
        yield f"| {name} | {share} | {found['chance']:.2%} |"
    yield f"\nOf {found['N']:,} pictures of {found['split']}. {found['notes']}"


def write(found: dict[str, Any], reports: list[Report], out: Path, of: dict[str, str] | None = None) -> list[Path]:
    """JSON for machines and Markdown for people → the two files.

    Args:
        of: what was measured, by the SHA-256 of its weights, and the command that does it again.
    """
    write_whole(out, {"of": of or {}, "summary": found, "reports": [report.to_dict() for report in reports]})
    write_whole(out.with_suffix(".md"), (markdown(found, reports) + "\n").encode())
    return [out, out.with_suffix(".md")]


def into_card(card: Card, found: dict[str, Any], weights_sha256: str, command: str) -> Card:
    """The card with what was found, under the names that the numbers have.

    What was found earlier in samples goes when something new was; bits per dimension stay until they are measured
    again.

    Args:
        weights_sha256: of what was measured. command: that measures it again.
    """
    metrics = dict(card.metrics)
    if "measured by" in found:
        metrics = {key: value for key, value in metrics.items() if key in ("training_loss", "accuracy", BITS)}
    metrics |= found
    for new in (found, found.get(BITS, {})):
        if "measured by" in new:
            new["measured by"]["command"] = command
    if BITS in metrics:
        metrics[BITS] = metrics.pop(BITS)  # after what was measured in samples, whichever came first
    return dataclasses.replace(card, metrics=metrics, weights_sha256=weights_sha256)


def _summary(scores: Scores) -> dict[str, Any]:
    return {"mean": scores.mean, "sd": None if math.isnan(scores.sd) else scores.sd, "each": list(scores.each)}
