"""How well a model that reads draws what captions say, by guidance and kind of caption: see `evaluation.judge`.

With `--heard` nothing is drawn: what a wrong word costs, in thousandths of the loss, by the noise; see
`evaluation.heard`.
"""

import argparse

from diffusion_book import models
from diffusion_book.evaluation.heard import NOISE, heard
from diffusion_book.evaluation.judge import QUESTIONS, judge_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="+", help="a run's folder, a file, or a name of the zoo")
    parser.add_argument("--split", nargs="+", default=["test", "pairs"], help="test, pairs, objects, tints")
    parser.add_argument("--guidance", nargs="+", type=float, default=[1, 2, 4])
    parser.add_argument("--count", type=int, default=96, help="captions of each kind")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--heard", action="store_true", help="what a wrong word costs")
    asked = parser.parse_args()
    if asked.heard:
        say_heard(asked.model, asked.count)
        return
    columns = (*QUESTIONS, "all")
    print(f"| model | captions | guidance | {' | '.join(columns)} |\n|---|---|---|{'---|' * len(columns)}")
    for name in asked.model:
        model = models.load(name)
        for split in asked.split:
            for w in asked.guidance:
                found = judge_model(model, split, asked.count, w, asked.steps)
                shown = " | ".join(f"{100 * found[column]:.0f} %" for column in columns)
                print(f"| {name} | {asked.count} of {split} | {w:g} | {shown} |", flush=True)


def say_heard(names: list[str], count: int) -> None:
    levels = [f"{level:g}" for level in NOISE]
    print(f"| model | wrong | {' | '.join(f'σ = {level}' for level in levels)} |\n|---|---|{'---|' * len(levels)}")
    for name in names:
        for what, by_noise in heard(models.load(name), count).items():
            found = (by_noise[level] for level in levels)
            shown = " | ".join(f"{1000 * g['gap']:.1f} ± {1000 * g['standard error']:.1f}" for g in found)
            print(f"| {name} | {what} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
