"""Stable Diffusion's U-Net, ours beside that of `diffusers` with the same weights: the same numbers, and the time.

    python benchmarks/stable_diffusion.py --rounds 1                1.5, one forward each; about 8 GB and two minutes
    python benchmarks/stable_diffusion.py --version 2.1 --rounds 1
    python benchmarks/stable_diffusion.py --device cuda --precision fp16 --rounds 20

The weights are random: neither the numbers nor the time ask for trained ones, and nothing is fetched. Both networks
take turns within a round. With --rounds 1 there is no warm-up, and the ratio of the times is that of a cold start.
The table is results/stable_diffusion-1.5.md, and on a GPU stable_diffusion-1.5-cuda.md.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

import diffusion_book._torchvision  # noqa: F401  (diffusers imports torchvision, which may need mending first)
from diffusion_book.interop import text_unet_from_diffusers

RESULTS = Path(__file__).parent / "results"
# unet/config.json of both, as far as it says something else than `diffusers` takes when nothing is said.
UNETS = {
    "1.5": {"sample_size": 64, "cross_attention_dim": 768},
    "2.1": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--version", choices=list(UNETS), default="1.5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1, help="pictures; guidance asks for two of each")
    parser.add_argument("--latent", type=int, default=64, help="side of a latent: 64 is a picture of 512 pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--quick", action="store_true", help="a small network of the same kind; writes nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), PRECISIONS[args.precision]
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        parser.error(f"torch has no {device} here; --device is cpu, or cuda where torch sees a GPU")
    from unet import resident_peak, seconds  # beside this file, which a test reads without its folder

    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        sys.exit("this compares with diffusers: pip install 'diffusion-book[interop]'")

    config = dict(UNETS[args.version])
    if args.quick:
        small = {"block_out_channels": [32, 64, 64, 64], "attention_head_dim": 8, "cross_attention_dim": 16}
        config, args.latent, args.rounds = config | small, 8, 1
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**config).eval()
    ours = text_unet_from_diffusers(config, theirs.state_dict())
    parameters = sum(parameter.numel() for parameter in ours.parameters()) / 1e6
    theirs, ours = theirs.to(device, dtype), ours.to(device, dtype)
    x = torch.randn(args.batch, 4, args.latent, args.latent).to(device, dtype)
    context = torch.randn(args.batch, 77, config["cross_attention_dim"]).to(device, dtype)
    t = torch.full((args.batch,), 500, device=device)

    said: dict[str, torch.Tensor] = {}
    peak = {"diffusers": 0.0, "ours": 0.0}
    times: dict[str, list[float]] = {name: [] for name in peak}

    def forward(name: str) -> None:
        """Ours counts the steps of noise from 1, theirs from 0."""
        with torch.no_grad():
            said[name] = ours(x, t, context=context) if name == "ours" else theirs(x, t - 1, context).sample

    for round in range(args.rounds + (args.rounds > 1)):
        for name in times:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            taken = seconds(lambda name=name: forward(name), time.perf_counter, device)
            if device.type == "cuda":
                peak[name] = torch.cuda.max_memory_allocated(device) / 2**30
            if round > 0 or args.rounds == 1:  # the first time is slower
                times[name].append(taken)

    apart = (said["ours"].float() - said["diffusers"].float()).abs().max()
    spread = said["diffusers"].float().std()
    ratios = [mine / other for mine, other in zip(times["ours"], times["diffusers"])]
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else f"{args.threads} threads on cpu"
    memory = (
        f"at most {peak['ours']:.2f} GiB while ours runs and {peak['diffusers']:.2f} while theirs does"
        if cuda
        else f"{resident_peak() / 2**10:.2f} GiB"
    )
    table = (
        f"The U-Net of Stable Diffusion {args.version}, {parameters:.1f}M random weights in {args.precision}, batch "
        f"{args.batch} of 4×{args.latent}×{args.latent}, {where}, torch {torch.__version__}.\n\n"
        "| | |\n|---|---|\n"
        f"| largest difference of outputs | {apart:.2e}, where their standard deviation is {spread:.3g} |\n"
        f"| time of ours by theirs | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}), "
        f"{args.rounds} round{'s' * (args.rounds > 1)} |\n"
        f"| a forward of theirs | {statistics.median(times['diffusers']):.3g} s |\n"
        f"| memory with both networks | {memory} |\n"
    )
    print(table)
    if not args.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"stable_diffusion-{args.version}{'-cuda' * cuda}.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
