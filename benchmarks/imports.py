"""How long `import diffusion_book` takes, beside `import torch` alone: each in fresh interpreters, turn by turn."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    rounds = 3 if parser.parse_args().quick else 15
    seconds("from diffusion_book import *")  # the first import of all fills the file cache
    pairs = [(seconds("import torch"), seconds("from diffusion_book import *")) for _ in range(rounds)]
    torch, ours = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    table = (
        "| import | median s | ratio (median of pairs) | goal |\n|---|---|---|---|\n"
        f"| torch | {torch:.2f} | 1.00 | |\n| diffusion_book | {ours:.2f} | {ratio:.2f} | ≤ 1.15 |\n"
    )
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "imports.md").write_text(table + "\n![ratios](imports.png)\n", encoding="utf-8")


if __name__ == "__main__":
    main()
