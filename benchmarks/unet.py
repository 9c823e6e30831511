"""Our U-Net beside those of other libraries, at equal size: a training step, a forward pass, memory.

    python benchmarks/unet.py --rounds 5 --threads 2
    python benchmarks/unet.py --device cuda --compile

The contestants take turns within a round, and each is divided by `diffusers` in the same round, so that what else the
machine does falls on all alike. Only these ratios mean anything. Peers that are not installed are left out. The table
is results/unet.md, and on a GPU, or of compiled networks, unet-cuda.md, unet-cpu-compiled.md and the like.
"""

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import diffusion_book._torchvision  # noqa: F401  (peers import torchvision, which may need mending first)
from diffusion_book.interop import unet_from_diffusers
from diffusion_book.nn import UNet, UNetConfig
from diffusion_book.training.precision import autocast

RESULTS = Path(__file__).parent / "results"
BASELINE = "diffusers"
DIFFUSERS = {
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 32,
    "attention_head_dim": 32,
}


class Called(nn.Module):
    """A peer's network, called as ours is: (x, t) → a tensor."""

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.call(self.network, x, t)


def diffusers() -> nn.Module:
    from diffusers import UNet2DModel

    return Called(UNet2DModel(**DIFFUSERS), lambda network, x, t: network(x, t).sample)


def ours_converted() -> nn.Module:
    """The network of `diffusers`, number for number, in our code."""
    peer = diffusers()
    return unet_from_diffusers(DIFFUSERS, peer.get_submodule("network").state_dict())


def ours() -> nn.Module:
    """Our own choices, at the same widths."""
    return UNet(UNetConfig(3, 32, (1, 2, 4), blocks=2, attention_levels=(2,), groups=32))


def smalldiffusion() -> nn.Module:
    from smalldiffusion.model_unet import Unet

    network = Unet(32, 3, 3, ch=32, ch_mult=(1, 2, 4), num_res_blocks=2, attn_resolutions=(8,), dropout=0)
    return Called(network, lambda network, x, t: network(x, t.float() / 1000))


def denoising_diffusion_pytorch() -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Called(Unet(dim=36, dim_mults=(1, 2, 4), channels=3), lambda network, x, t: network(x, t))


# Name → the network, and the precision it computes in.
CONTESTANTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    BASELINE: (diffusers, "fp32"),
    "diffusers, auto": (diffusers, "auto"),
    "ours, same network": (ours_converted, "fp32"),
    "ours": (ours, "fp32"),
    "ours, same network, auto": (ours_converted, "auto"),
    "ours, auto": (ours, "auto"),
    "smalldiffusion": (smalldiffusion, "fp32"),
    "denoising-diffusion-pytorch": (denoising_diffusion_pytorch, "fp32"),
}


class Contestant:
    """A network with its optimiser and its batch."""

    def __init__(self, name: str, batch: int, device: torch.device, compiled: bool) -> None:
        build, self.precision = CONTESTANTS[name]
        torch.manual_seed(0)
        self.network = build().to(device).train()
        self.run = torch.compile(self.network, dynamic=False) if compiled else self.network
        self.optimiser = torch.optim.AdamW(self.network.parameters(), 1e-4, fused=True)
        self.x = torch.randn(batch, 3, 32, 32, device=device)
        self.t = torch.randint(1, 1000, (batch,), device=device)

    def step(self) -> None:
        """Forward, backward, AdamW."""
        with autocast(self.precision, self.x.device):
            loss = (self.run(self.x, self.t).float() - self.x).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    @torch.no_grad()
    def forward(self) -> None:
        """As a sampler calls it."""
        with autocast(self.precision, self.x.device):
            self.run(self.x, self.t)

    def parameters(self) -> float:
        """In millions."""
        return sum(p.numel() for p in self.network.parameters()) / 1e6

    def macs(self) -> float:
        """In millions, for one image."""
        network = copy.deepcopy(self.network).to("meta")  # counted from shapes: nothing is computed
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(self.x[:1].to("meta"), self.t[:1].to("meta"))
        return counter.get_total_flops() / 2e6


def seconds(work: Callable[[], None], clock: Callable[[], float], device: torch.device) -> float:
    """Of one call; on a GPU, which runs behind the program, the mean of ten that are waited for."""
    calls = 10 if device.type == "cuda" else 1
    wait(device)
    start = clock()
    for _ in range(calls):
        work()
    wait(device)
    return (clock() - start) / calls


def wait(device: torch.device) -> None:
    """Until everything that was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_megabytes(name: str, batch: int, device: torch.device, compiled: bool) -> float:
    """What a training step adds to a process that holds the network; on a CPU the first one, the optimiser's state too.

    A GPU's memory is counted by torch; a CPU's is that of the process, which never gives back what one step took.
    """
    contestant = Contestant(name, batch, device, compiled)
    if device.type == "cuda":
        contestant.step()  # compiles, and makes the optimiser's state
        contestant.optimiser.zero_grad(set_to_none=True)
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        contestant.step()
        wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    small = Contestant(name, 1, device, compiled)
    small.step()  # what is set up once for all
    before = resident_peak()
    contestant.step()
    return resident_peak() - before


def resident_peak() -> float:
    """Megabytes since this program began; `getrusage` would begin with the peak of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--compile", action="store_true", help="let torch.compile have every network first (minutes)")
    parser.add_argument("--quick", action="store_true", help="one round of a batch of 4; writes nothing")
    parser.add_argument(
        "--only", nargs="*", choices=list(CONTESTANTS), default=list(CONTESTANTS), help="some of the contestants"
    )
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, for a very busy machine")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory, which starts a process for each")
    parser.add_argument("--memory-of", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        parser.error(f"torch has no {device} here; --device is cpu, or cuda where torch sees a GPU")
    if args.cpu_time and device.type == "cuda":
        parser.error("--cpu-time counts the processor's time, and a GPU's work takes next to none of it")
    if args.memory_of:
        print(peak_megabytes(args.memory_of, args.batch, device, args.compile))
        return
    if args.quick:
        args.rounds, args.batch = 1, 4

    contestants = {}
    for name in dict.fromkeys([BASELINE, *args.only]):
        try:
            contestants[name] = Contestant(name, args.batch, device, args.compile)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    if BASELINE not in contestants:
        sys.exit("everything is divided by diffusers: pip install 'diffusion-book[interop]'")

    clock = time.process_time if args.cpu_time else time.perf_counter
    step: dict[str, list[float]] = {name: [] for name in contestants}
    forward: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():  # the first time is slower
        contestant.step()
        contestant.forward()
    for _ in range(args.rounds):
        for name, contestant in contestants.items():
            step[name].append(seconds(contestant.step, clock, device))
            forward[name].append(seconds(contestant.forward, clock, device))

    memory = {}
    for name in () if args.no_memory else contestants:
        command = [sys.executable, __file__, "--memory-of", name, "--batch", str(args.batch), "--device", args.device]
        command += ["--threads", str(args.threads), *["--compile"] * args.compile]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        memory[name] = float(found.stdout.split()[-1])

    def ratio(times: dict[str, list[float]], name: str) -> str:
        ratios = [mine / theirs for mine, theirs in zip(times[name], times[BASELINE])]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"

    def share(name: str) -> str:
        return f"{memory[name] / memory[BASELINE]:.2f}" if memory.get(BASELINE) else "–"

    def own(name: str) -> str:
        return f"forward {ratio(forward, name).split()[0]} and memory {share(name)}"

    notes = []
    if "ours, same network" in contestants:
        notes.append(
            "The row for equal MACs and parameters is “ours, same network”: layer by layer that of diffusers, with "
            "fewer MACs because upsampling is one transposed convolution.\n"
        )
    if {"ours", "ours, auto"} <= contestants.keys():
        notes.append(f"Our own choices have {own('ours')} in float32, {own('ours, auto')} in the default precision.\n")
    milliseconds = {
        name: 1e3 * statistics.median(times[BASELINE]) for name, times in (("a step", step), ("forward", forward))
    }
    base = ", ".join(f"{value:.4g} ms {name}" for name, value in milliseconds.items())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{args.threads} threads on cpu"
    lines = [
        f"batch {args.batch} of 3×32×32, {where}, torch {torch.__version__}{', compiled' * args.compile}; "
        f"median of {args.rounds} rounds and its range; {BASELINE} takes {base}.\n",
        *notes,
        "| network | params | MACs | train step | forward | memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, contestant in contestants.items():
        size = f"{contestant.parameters():.2f}M | {contestant.macs():.0f}M"
        lines.append(f"| {name} | {size} | {ratio(step, name)} | {ratio(forward, name)} | {share(name)} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if args.quick:
        return
    RESULTS.mkdir(exist_ok=True)
    if device.type == "cpu" and not args.compile:
        (RESULTS / "unet.md").write_text(table + "\n![ratios](unet.png)\n", encoding="utf-8")
    else:
        name = f"unet-{device.type}{'-compiled' * args.compile}"
        (RESULTS / f"{name}.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
