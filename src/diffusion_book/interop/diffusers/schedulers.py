"""Schedules to and from `diffusers`, whose schedulers say a schedule, what is predicted, and how to step.

How to step is left behind: the spacing of times, σ_min and ρ of EDM, the shift of a flow.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from diffusion_book.interop.diffusers.options import ANYTHING, POSITIVE, Kind, Option, Options, among
from diffusion_book.interop.diffusers.package import diffusers
from diffusion_book.predictions import Prediction
from diffusion_book.schedules import EDM, Discrete, Flow, Schedule

_ON_EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
_ON_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# Schedulers that walk on DDPM's betas, unless they are told to walk on a flow.
_ON_BETAS = (
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
# Those of them that go from 0.00085 to 0.012 when they are not told from where to where, as DDPM's do not.
_ON_OTHER_BETAS = (
    "DPMSolverSDEScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
)

_EDM = Options(
    "EDMEulerScheduler",
    {
        "sigma_max": Option(80.0, POSITIVE, "sigma_max"),
        "sigma_data": Option(0.5, POSITIVE, "sigma_data"),
        # What they call a prediction is F or −F: the sign with which it enters their x̂0.
        "prediction_type": Option(
            "epsilon", among({"epsilon": 1, "v_prediction": -1}, "epsilon or v_prediction"), "sign"
        ),
    },
)
_FLOW = Options(
    "FlowMatchEulerDiscreteScheduler",
    {
        "num_train_timesteps": Option(1000, among([1000], "1000, since our Flow tells a network 1000 t")),
        "invert_sigmas": Option(False, Kind(lambda value: not value, "False, with the noise at 1")),
    },
)
_FLOW_INSTEAD_OF_BETAS = Options(
    "DPMSolverMultistepScheduler",
    {
        **_FLOW.table,
        "prediction_type": Option("epsilon", among(["flow_prediction"], "flow_prediction on a flow")),
    },
)
_BETAS = Options(
    "DDPMScheduler",
    {
        "num_train_timesteps": Option(1000, ANYTHING, "T"),
        "trained_betas": Option(None, ANYTHING, "beta"),
        "prediction_type": Option(
            "epsilon",
            among({"epsilon": "eps", "v_prediction": "v", "sample": "x0"}, "one of epsilon, v_prediction, sample"),
            "prediction",
        ),
        "variance_type": Option("fixed_small", ANYTHING, "variance"),
        "timestep_type": Option("discrete", among(["discrete"], "discrete, as DDPM counts its steps")),
    },
)


def schedule_to_diffusers(
    schedule: Schedule, prediction: Prediction, learned_variance: bool
) -> tuple[str, dict[str, Any]]:
    """The scheduler there that walks on a schedule of ours, and its options.

    Raises:
        ValueError: there is none, or it knows no such prediction, or no learned variance.
    """
    if isinstance(schedule, Flow):
        options, known, ours = _FLOW, ["u"], SimpleNamespace()
    elif isinstance(schedule, EDM):
        options, known = _EDM, ["F"]
        ours = SimpleNamespace(sigma_max=schedule.T, sigma_data=schedule.sigma_data, sign=1)
    elif isinstance(schedule, Discrete):
        options, known = _BETAS, ["eps", "v", "x0"]
        ours = SimpleNamespace(T=schedule.T, beta=schedule.beta[1:].tolist(), prediction=prediction)
        ours.variance = "learned_range" if learned_variance else "fixed_small"
    else:
        raise ValueError(
            "diffusers has schedules with steps, such as schedules.cosine(), schedules.Flow and schedules.EDM; "
            f"got {schedule!r}"
        )
    name = options.theirs
    if prediction not in known:
        raise ValueError(f"diffusers' {name} knows no prediction {prediction!r}; train one of {', '.join(known)}")
    if learned_variance and not isinstance(schedule, Discrete):
        raise ValueError(f"diffusers' {name} knows no learned variance; train a network without one")
    return name, options.write(ours)


def schedule_from_diffusers(options: Mapping[str, Any]) -> tuple[Schedule, Prediction, int]:
    """Schedule, prediction, and the sign with which the network's output is that prediction.

    Raises:
        ValueError: an option does not fit a schedule of ours; the message names it.
    """
    name = options.get("_class_name", "DDPMScheduler")
    if name in _ON_EDM:
        ours = _EDM.read(options, name)
        return EDM(ours["sigma_max"], ours["sigma_data"]), "F", ours["sign"]
    if name in _ON_FLOW or (name in _ON_BETAS and options.get("use_flow_sigmas")):
        (_FLOW if name in _ON_FLOW else _FLOW_INSTEAD_OF_BETAS).read(options, name)
        return Flow(), "u", 1
    if name not in _ON_BETAS:
        known = ", ".join(sorted([*_ON_BETAS, *_ON_EDM, *_ON_FLOW]))
        raise ValueError(f"_class_name = {name!r}: only schedulers of known schedules are read, {known}")
    ours = _BETAS.read(options, name)
    try:
        beta = _computed(options) if ours["beta"] is None or options.get("rescale_betas_zero_snr") else ours["beta"]
        return Discrete(torch.tensor(beta, dtype=torch.float64)), ours["prediction"], 1
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"scheduler_config.json: {name} cannot be made of its options ({error})") from error


def _computed(options: Mapping[str, Any]) -> list[float]:
    """β_1 … β_T as `diffusers` computes them from a scheduler's options."""
    ddpm = diffusers().DDPMScheduler
    known = {option: value for option, value in options.items() if option in ddpm().config}
    if options.get("_class_name") in _ON_OTHER_BETAS:
        known = {"beta_start": 0.00085, "beta_end": 0.012} | known
    return ddpm(**known).betas.tolist()
