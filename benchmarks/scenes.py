"""Pictures a second that `data.Scenes` draws, with their captions, on one thread: no network should wait for them."""

import argparse
import statistics
import time

import torch

from diffusion_book.data import Scenes

GOAL = 2_000


def rate(data: Scenes, batch: int, rounds: int) -> float:
    """The median over the rounds, of the time that the processor spends on it."""
    rates = []
    for i in range(rounds):
        start = time.thread_time()
        data.take(torch.arange(batch) + i * batch)
        rates.append(batch / (time.thread_time() - start))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 rounds instead of 50")
    rounds = 10 if parser.parse_args().quick else 50
    torch.set_num_threads(1)
    print(f"| scenes | batch | pictures a second (goal ≥ {GOAL:,}) |\n|---|---|---|")
    for size in (32, 64):
        for varied in (False, True):
            data = Scenes(size=size, varied=varied)
            data.take(torch.arange(2))  # draws the sprites
            words = "varied captions" if varied else "plain captions"
            print(f"| {size}×{size}, {words} | 32 | {rate(data, 32, rounds):,.0f} |")


if __name__ == "__main__":
    main()
