"""Draw the tables in benchmarks/results as bars beside their goals: `python benchmarks/plots.py`, when one has changed.

Each number is read from the table that the plot stands below, so that the two cannot disagree. The plot of orders.md
needs the errors behind its slopes, and is drawn by orders.py.
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from diffusion_book import viz

RESULTS = Path(__file__).parent / "results"
Rows = list[list[str]]


def read(name: str) -> list[Rows]:
    """The Markdown tables of results/name.md: the rows of each, without its header."""
    tables: list[Rows] = [[]]
    for line in (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    return [table[2:] for table in tables if table]


def number(cell: str) -> float:
    """The first number of a cell: 0.88 of "0.88 (0.86–1.02)", 51 of "> 51"."""
    found = re.search(r"\d+(\.\d+)?", cell)
    return float(found.group()) if found else float("nan")


def draw(
    name: str, names: list[str], columns: dict[str, list[str]], goal: float, xlabel: str, aim: str = "goal"
) -> None:
    """A group of bars for each name, a bar for each column, told its cell; and the goal as a line."""
    figure, axis = plt.subplots(figsize=(viz.WIDTH, 1.2 + 0.22 * len(names) * (len(columns) + 0.5)))
    height = 0.8 / len(columns)
    for k, (label, cells) in enumerate(columns.items()):
        places = [i + height * (k - (len(columns) - 1) / 2) for i in range(len(names))]
        drawn = axis.barh(places, [number(cell) for cell in cells], 0.9 * height, label=label)
        shown = [cell.split(" (")[0] for cell in cells]
        axis.bar_label(drawn, shown, label_type="center", color="white", fontsize=8)
    axis.axvline(goal, color=viz.COLORS["red"], linewidth=1.5, linestyle="--", label=f"{aim}: at most {goal:g}")
    axis.set(xlabel=xlabel, yticks=range(len(names)), yticklabels=names)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=len(columns) + 1, fontsize=9)
    figure.savefig(RESULTS / f"{name}.png")
    plt.close(figure)


def column(rows: Rows, k: int) -> list[str]:
    return [row[k] for row in rows]


def unet() -> None:
    (rows,) = read("unet")
    columns = {label: column(rows, k) for k, label in ((3, "train step"), (4, "forward"), (5, "memory"))}
    draw("unet", column(rows, 0), columns, 0.9, "ratio to diffusers", aim="goal for time")


def samplers() -> None:
    (rows,) = read("samplers")
    names = [f"{name}, batch of {batch}" for name, batch, *_ in rows]
    columns = {"ours": column(rows, 4), "ours with from_network": column(rows, 6)}
    draw("samplers", names, columns, 0.3, "time of a step, ratio to diffusers")


def nfe() -> None:
    loose, strict = read("nfe")
    columns = {"within one deviation": column(loose, -1), "within two standard errors": column(strict, -1)}
    draw("nfe", column(loose, 0), columns, 12, "evaluations to be as good as 1,000 steps of DDPM, on the best grid")


def imports() -> None:
    (rows,) = read("imports")
    draw("imports", column(rows, 0), {"import": column(rows, 2)}, 1.15, "time of an import, ratio to torch alone")


def main() -> None:
    viz.use_style()
    for plot in (unet, samplers, nfe, imports):
        plot()
        print(RESULTS / f"{plot.__name__}.png")


if __name__ == "__main__":
    main()
