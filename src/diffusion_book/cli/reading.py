"""Cards for people."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def line(card: Mapping[str, Any], weights: Path) -> str:
    """A model in one line: its name, what it is, its size, and the first thing that was measured, or the loss."""
    recipe = card["recipe"]
    what = f"{recipe['network']['kind']} on {recipe['data']}"
    loss_last = sorted(card["metrics"].items(), key=lambda metric: metric[0] == "training_loss")
    measured = next(iter(_flat(dict(loss_last))), "")
    return f"{card['name']:24}{what:26}{_megabytes(weights):10}{measured}"


def card(card: Mapping[str, Any], weights: Path) -> Iterator[str]:
    """A card as lines of a name and what is known."""
    recipe, made, seen = card["recipe"], card["hardware"], card["images_seen"]
    network = ", ".join(f"{name} {value}" for name, value in recipe["network"].items() if name != "kind")
    yield card["name"]
    rows = {
        "network": f"{recipe['network']['kind']}{f' ({network})' if network else ''}, {_megabytes(weights)}",
        "learned": _task(recipe),
        "trained on": f"{recipe['data']}, {seen:,} images in {card['step']:,} steps, seed {card['seed']}",
        "took": f"{duration(card['wall_time'])} on {made.get('gpu') or made['cpu']}, {threads(made['threads'])}",
        "made by": card["command"],
        "versions": ", ".join(f"{name} {value}" for name, value in card["versions"].items()),
        "SHA-256": f"{card['sha256']}, of the file",
    }
    if "weights_sha256" in card:
        rows[""] = f"{card['weights_sha256']}, of the weights as they are loaded"
    for name, value in rows.items():
        yield f"  {name:12}{value}"
    yield "  measured"
    for text in _flat(card["metrics"]):
        yield f"    {text}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 13 min, 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _task(recipe: Mapping[str, Any]) -> str:
    if recipe["network"]["kind"] == "classifier":
        return "to name the class"
    return f"to predict {recipe['prediction']} on the schedule {recipe['schedule']}"


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Each number with the names that lead to it: `FCD-MNIST mean 1.2`."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} ")
        else:
            yield f"{above}{name} {f'{value:.4g}' if isinstance(value, float) else value}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


def threads(count: int) -> str:
    """The number in words."""
    return "1 thread" if count == 1 else f"{count} threads"
