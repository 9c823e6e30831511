"""Where the time of a U-Net goes, operator by operator: ours beside that of diffusers, the same network in both.

    python benchmarks/profile_unet.py

It takes a minute on a quiet machine. Shares are of each network's own time; unet.py says how the two times compare.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from unet import Contestant

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("diffusers", "ours, same network")
LEAST = 0.01  # of any column; what stays below it everywhere is summed up


def events(work: Callable[[], None]) -> list[tuple[str, float]]:
    """(operator, microseconds in it itself and not in what it calls) of one call, in order."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    found = sorted(profiler.events(), key=lambda event: event.time_range.start)
    return [(e.name[6:], e.self_cpu_time_total) for e in found if e.name.startswith("aten::")]


def shares(work: Callable[[], None], calls: int) -> dict[str, float]:
    """Operator → its share of the time in operators: each event as fast as it was in the best of the calls.

    The same events come in every call, and whatever else the machine does interrupts others in each.
    """
    work()  # the first time is slower
    runs = [events(work) for _ in range(calls)]
    times: dict[str, float] = {}
    for same in zip(*runs, strict=True):
        ((operator, _), *_) = same
        assert {name for name, _ in same} == {operator}, "the calls differ, so their events cannot be compared"
        times[operator] = times.get(operator, 0.0) + min(time for _, time in same)
    return {operator: time / sum(times.values()) for operator, time in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one call of a batch of 2; writes nothing")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    batch, calls = (2, 2) if quick else (8, 15)
    columns = {}
    for name in NETWORKS:
        contestant = Contestant(name, batch, torch.device("cpu"), compiled=False)
        columns[f"{name}: train step"] = shares(contestant.step, calls)
        columns[f"{name}: forward"] = shares(contestant.forward, calls)

    operators = {operator for column in columns.values() for operator in column}
    most = {operator: max(column.get(operator, 0) for column in columns.values()) for operator in operators}
    listed = sorted((operator for operator in operators if most[operator] >= LEAST), key=lambda o: (-most[o], o))
    lines = [
        f"Shares of the time in operators, each without those it calls, by torch's profiler. Batch {batch} of 3×32×32, "
        f"float32, one thread of a shared CPU, the best of {calls} calls event by event, torch {torch.__version__}. "
        "Each column is divided by its own sum.\n",
        "| operator | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for operator in listed:
        lines.append(f"| `{operator}` | " + " | ".join(f"{c.get(operator, 0):.1%}" for c in columns.values()) + " |")
    rest = [1 - sum(column.get(operator, 0) for operator in listed) for column in columns.values()]
    lines.append(f"| others, each below {LEAST:.0%} | " + " | ".join(f"{share:.1%}" for share in rest) + " |")
    table = "\n".join(lines) + "\n"
    print(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "profile_unet.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
