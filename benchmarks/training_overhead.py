"""What a training step spends on anything but the network: data, log and checkpoints, as shares of one run.

The digits U-Net on `mnist-5k`, batch 64, float32, one thread. Every second is counted once, inside the very run: the
time in the trainer's parts that prepare a batch (its images, times, noise and dropped labels) and that write the log
(the sums by time; a line and TensorBoard at every step, though the default is one in a hundred), over the whole.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from diffusion_book.training import RunConfig, Trainer

RESULTS = Path(__file__).parent / "results"
PARTS = {
    "data and draws": ("_batch", "_shares"),
    "log, at every step": ("losses.add", "_log"),
    "checkpoints, every 25 steps": ("_save",),
}


def count_time(trainer: Trainer, name: str, seconds: dict[str, float]) -> None:
    """Have one method of this trainer add what it takes to `seconds`."""
    *path, last = name.split(".")
    owner = functools.reduce(getattr, path, trainer)
    method = getattr(owner, last)

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = method(*arguments)
        if name == "_shares":  # it yields: let it do its work here
            result = list(result)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    setattr(owner, last, timed)


def measure(steps: int) -> tuple[float, dict[str, float]]:
    """(milliseconds a step, share of it by part), after a few steps that nobody counts."""
    config = RunConfig(
        batch_size=64,
        steps=steps + 5,
        objective={"condition_dropout": 0.1},
        precision="fp32",
        log_every=1,
        preview_every=5,
        checkpoint_every=25,
        network={"kind": "unet", "size": "digits"},
    )
    seconds: dict[str, float] = {}
    began = 0.0

    def warm(network: torch.nn.Module, path: Path) -> None:
        nonlocal began
        if not began:
            seconds.clear()
            began = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, folder, preview=warm)
        for names in PARTS.values():
            for name in names:
                count_time(trainer, name, seconds)
        trainer.run()
        total = time.perf_counter() - began
    shares = {part: sum(seconds[name] for name in names) / total for part, names in PARTS.items()}
    return 1e3 * total / steps, shares


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 steps instead of 60; writes nothing")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    step, shares = measure(20 if quick else 60)
    lines = [
        f"The digits U-Net, batch 64, float32, one thread: {step:.0f} ms a step, of which\n",
        "| part | share of the step | goal |",
        "|---|---|---|",
    ]
    *counted, saving = shares.items()
    lines += [f"| {part} | {share:.2%} | |" for part, share in counted]
    lines += [f"| data and log together | {sum(share for _, share in counted):.2%} | ≤ 5 % |"]
    lines += [f"| {saving[0]} | {saving[1]:.2%} | |"]
    table = "\n".join(lines) + "\n"
    print(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "training_overhead.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
