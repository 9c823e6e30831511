"""Trains `evaluation.reader` in some minutes of one thread, and says how well it and the judge read real scenes."""

import argparse
import functools
import time
from pathlib import Path

import torch

from diffusion_book import models
from diffusion_book.data import Scenes
from diffusion_book.evaluation import reader
from diffusion_book.evaluation.judge import QUESTIONS, by_sprites, judge, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("scenes-reader.safetensors"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--count", type=int, default=300, help="pictures of each kind to read")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.thread_time()
    network = reader.train(asked.steps)
    print(f"{asked.steps} steps in {time.thread_time() - start:.0f} s of one thread: {asked.out}")
    print(f"SHA-256 {models.save(asked.out, network)}\n")
    columns = (*QUESTIONS, "all")
    print(f"| reads | pictures | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}", flush=True)
    index = torch.arange(asked.count)
    for split in ("test", "pairs", "objects", "tints"):
        data = Scenes(split)
        x, said = data.take(index)[0], data.captions(index)
        for kind, shown in ((split, x), (f"{split}, spoilt", reader.spoilt(x, torch.Generator().manual_seed(1)))):
            for name, look in (("judge", by_sprites), ("reader", functools.partial(reader.look, network))):
                found = shares(judge(shown, said, look))
                print(f"| {name} | {kind} | {' | '.join(f'{found[c]:.3f}' for c in columns)} |", flush=True)


if __name__ == "__main__":
    main()
