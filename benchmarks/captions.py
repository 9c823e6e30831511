"""How well a model that reads draws what captions say, by guidance and kind of caption: see `evaluation.judge`."""

import argparse

from diffusion_book import models
from diffusion_book.evaluation.judge import QUESTIONS, judge_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="+", help="a run's folder, a file, or a name of the zoo")
    parser.add_argument("--split", nargs="+", default=["test", "pairs"], help="test, pairs, objects, tints")
    parser.add_argument("--guidance", nargs="+", type=float, default=[1, 2, 4])
    parser.add_argument("--count", type=int, default=96, help="captions of each kind")
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    columns = (*QUESTIONS, "all")
    print(f"| model | captions | guidance | {' | '.join(columns)} |\n|---|---|---|{'---|' * len(columns)}")
    for name in asked.model:
        model = models.load(name)
        for split in asked.split:
            for w in asked.guidance:
                found = judge_model(model, split, asked.count, w, asked.steps)
                shown = " | ".join(f"{100 * found[column]:.0f} %" for column in columns)
                print(f"| {name} | {asked.count} of {split} | {w:g} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
