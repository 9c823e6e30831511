"""What ten minutes of this machine buy: digits trained by our recipe and by those of others, measured alike.

    DIFFUSION_BOOK_DATA=… python benchmarks/efficiency.py --minutes 10 --samples 1000

Each contestant trains on the whole of MNIST for the same time on the clock, one after the other, so the machine must be
quiet. Each is then sampled by the same solver in the same number of evaluations, and measured against the training
set in the features of `mnist-classifier`. A contestant's learning rate decays over the steps that it will manage, which
are foretold anew at every step. `--only` runs some of them and keeps the rows of the others.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import diffusion_book._torchvision  # noqa: F401  (peers import torchvision, which may need mending first)
from diffusion_book import data, denoise, evaluation, losses, samplers, schedules, zoo
from diffusion_book.conditions import drop
from diffusion_book.evaluation.of_model import extractor_of
from diffusion_book.nn import build
from diffusion_book.schedules import Schedule
from diffusion_book.training import EMA, RunConfig
from diffusion_book.training.loop import warm_up_then_cosine
from diffusion_book.training.precision import autocast

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = 30
STRONG = "diffusers, strong recipe"
OURS, UNLABELLED = "diffusion_book, mnist-unet", "diffusion_book, without labels"
GOAL = 0.5  # of the strong recipe's distance


@dataclass(frozen=True)
class Contestant:
    """A network, called (x_t, t, y=y), and the recipe that belongs to it."""

    name: str
    network: Callable[[], nn.Module]
    schedule: Schedule
    config: RunConfig
    side: int = 32
    betas: tuple[float, float] = (0.9, 0.999)  # PyTorch's own
    labels: bool = False  # is it told which digit it sees?


class Peer(nn.Module):
    """A peer's network, called as ours is: it counts the times from 0, not from 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output = self.network(x, t - 1)
        return getattr(output, "sample", output)


def contestants() -> list[Contestant]:
    def ours() -> nn.Module:
        return build({**config.network, "image_channels": 1, "classes": 10})

    def unlabelled() -> nn.Module:
        return build({**config.network, "image_channels": 1})

    def diffusers() -> nn.Module:
        from diffusers import UNet2DModel

        return Peer(
            UNet2DModel(
                sample_size=32,
                in_channels=1,
                out_channels=1,
                layers_per_block=2,
                block_out_channels=(16, 32, 64),
                down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
                norm_num_groups=16,
            )
        )

    def denoising_diffusion_pytorch() -> nn.Module:
        from denoising_diffusion_pytorch import Unet

        return Peer(Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=False))

    cosine, config = schedules.cosine(), RunConfig.from_file(zoo.recipe("mnist-unet"))
    strong = RunConfig(batch_size=64, learning_rate=1e-3, warmup=500, weight_decay=0.01, precision="bf16")
    tutorial = replace(strong, learning_rate=1e-4, objective={"prediction": "eps"}, ema_decay=0.0)
    # Its Trainer's own defaults: no warm-up, no decay, no autocast.
    plain = replace(strong, warmup=0, decay="none", weight_decay=0.0, precision="fp32")
    ddpm = replace(plain, batch_size=16, learning_rate=1e-4, ema_decay=0.995)
    return [
        Contestant(OURS, ours, cosine, config, side=28, betas=(0.9, 0.99), labels=True),
        Contestant(UNLABELLED, unlabelled, cosine, config, side=28, betas=(0.9, 0.99)),
        Contestant(STRONG, diffusers, cosine, strong),
        Contestant("diffusers, tutorial recipe", diffusers, schedules.linear(), tutorial),
        Contestant(
            "denoising-diffusion-pytorch, defaults",
            denoising_diffusion_pytorch,
            schedules.sigmoid(),
            ddpm,
            betas=(0.9, 0.99),
        ),
    ]


def train(contestant: Contestant, images: data.Images, seconds: float) -> tuple[nn.Module, int]:
    """Train for so long → (averaged network, images seen)."""
    torch.manual_seed(0)
    network = contestant.network()
    config = contestant.config
    optimiser = _optimiser(network, contestant)
    ema = EMA(network, config.ema_decay)
    generator = torch.Generator().manual_seed(0)
    network.train()
    start, step = time.perf_counter(), 0
    while (past := time.perf_counter() - start) < seconds:
        config = replace(config, steps=max(step + 1, int(step * seconds / past)))
        rate = 1.0 if config.decay == "none" else warm_up_then_cosine(step, config)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate
        _step(contestant, network, optimiser, images, generator)
        ema.update(network)
        step += 1
        if step % 100 == 0:
            print(f"  {contestant.name}: step {step} of about {config.steps}", end="\r", flush=True)
    print(flush=True)
    return ema.network, step * config.batch_size


def _optimiser(network: nn.Module, contestant: Contestant) -> torch.optim.Optimizer:
    rate, decay = contestant.config.learning_rate, contestant.config.weight_decay
    return torch.optim.AdamW(network.parameters(), rate, contestant.betas, weight_decay=decay, fused=True)


def _step(
    contestant: Contestant,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: data.Images,
    generator: torch.Generator,
) -> None:
    config, denoising = contestant.config, contestant.config.denoising
    x0, conditions = images.batch(config.batch_size, generator)
    x0 = F.pad(x0, [(contestant.side - 28) // 2] * 4, value=-1.0)
    t = losses.draw_times(contestant.schedule, len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator)
    nothing = {"y": torch.tensor(10)}
    told = drop(conditions, nothing, denoising.condition_dropout, generator) if contestant.labels else {}
    with autocast(config.precision, x0.device):
        loss = losses.simple_loss(network, contestant.schedule, x0, t, eps, denoising.prediction, told).mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
    optimiser.step()


@torch.no_grad()
def sample(contestant: Contestant, network: nn.Module, count: int, labels: Tensor) -> Tensor:
    """`count` digits by DPM-Solver++(2M), without guidance.

    A class, for a network that wants one, is drawn at random from the training `labels`: dealt in turn, the classes
    would vary less than the real digits' do, and the distance would be too kind (chapter 12).
    """
    parts, prediction = [], contestant.config.denoising.prediction
    generator = torch.Generator().manual_seed(1)
    times = samplers.log_snr_times(contestant.schedule, EVALUATIONS)
    network.eval()
    for start in range(0, count, 250):
        size = min(250, count - start)
        y = labels[torch.randint(len(labels), (size,), generator=generator)] if contestant.labels else None
        told = {} if y is None else {"y": y}
        denoiser = denoise.from_network(network, contestant.schedule, prediction, told, x0_max=1.0)
        x_T = samplers.start_noise((size, 1, contestant.side, contestant.side), generator)
        with autocast("auto", x_T.device):
            x0 = samplers.dpm_solver(denoiser, contestant.schedule, x_T, times, order=2)
        edge = (contestant.side - 28) // 2
        parts.append(x0[..., edge : edge + 28, edge : edge + 28].clamp(-1, 1))
    return torch.cat(parts)


def verdict(rows: dict[str, dict[str, Any]]) -> str:
    """Like against like, in a sentence: our recipe without labels, and then what being told the class adds."""
    told, untold = (rows[name]["fcd_mnist"] / rows[STRONG]["fcd_mnist"] for name in (OURS, UNLABELLED))
    goal = {share: "reached" if share <= GOAL else "missed" for share in (told, untold)}
    return (
        f"Like for like: without labels ours is at {untold:.2f} of the strong recipe's distance, and the goal of "
        f"{GOAL:g} is {goal[untold]}; with them it is at {told:.2f}, and the goal is {goal[told]}. That is a factor of "
        f"{1 / told:.1f}, of which {1 / untold:.1f} is the recipe's and {untold / told:.1f} the class's"
        + (": most of the gap is that the network is told the class." if told < untold**2 else ".")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="as in the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    images, test = data.load("mnist"), data.load("mnist", "test")
    extractor = extractor_of("mnist-classifier", images.shape)
    reference = evaluation.moments(extractor, images.x, "mnist/train")
    some = torch.randperm(len(test), generator=torch.Generator().manual_seed(2))[: arguments.samples]
    floor = evaluation.frechet_distance(evaluation.moments(extractor, test.x[some]), reference)
    every = contestants()
    names = [contestant.name for contestant in every]
    file = RESULTS / "efficiency.json"
    rows = {row["name"]: row for row in json.loads(file.read_text())} if file.exists() else {}
    for contestant in [every[names.index(name)] for name in arguments.only or names]:
        network, seen = train(contestant, images, 60 * arguments.minutes)
        digits = sample(contestant, network, arguments.samples, images.conditions["y"])
        distance = evaluation.frechet_distance(evaluation.moments(extractor, digits), reference)
        size = sum(p.numel() for p in network.parameters()) / 1e6
        rows[contestant.name] = {
            "name": contestant.name,
            "parameters_M": size,
            "images": seen,
            "fcd_mnist": distance,
            "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        }
        print(f"{contestant.name}: {seen} images, FCD-MNIST {distance:.2f}", flush=True)
    baseline = rows[STRONG]["fcd_mnist"]
    lines = [
        f"FCD-MNIST of {arguments.samples} samples in {EVALUATIONS} evaluations against the training set, after "
        f"{arguments.minutes:g} minutes of training on {arguments.threads} threads. {arguments.samples} real test "
        f"digits: {floor:.2f}. The first is told the class of each digit, the others are not. Rows measured hours "
        "apart are of different runs, between which the machine may have been faster or slower. "
        f"Extractor: {extractor.name}, SHA-256 {extractor.sha256[:12]}….",
        "",
        *([verdict(rows), ""] if {OURS, UNLABELLED, STRONG} <= rows.keys() else []),
        "| | parameters | images seen | FCD-MNIST | of the strong recipe's | measured |",
        "|---|---|---|---|---|---|",
    ]
    found = [rows[name] for name in names if name in rows]
    for row in found:
        distance = row["fcd_mnist"]
        cells = [
            row["name"],
            f"{row['parameters_M']:.2f} M",
            row["images"],
            f"{distance:.2f}",
            f"{distance / baseline:.2f}",
            row["measured"],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "efficiency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
