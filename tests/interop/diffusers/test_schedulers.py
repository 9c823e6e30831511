"""Schedules and predictions that the schedulers of `diffusers` have, against the schedulers themselves."""

import json
from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UNet2DModel,
)

from _support.networks import randomised
from _support.unet2d import K4, T4, TINY
from diffusion_book import denoise, predictions, samplers, schedules
from diffusion_book.interop import load_pipeline, save_pipeline
from diffusion_book.interop.diffusers.schedulers import _BETAS, _EDM, _FLOW, _ON_BETAS, schedule_from_diffusers
from diffusion_book.nn import MLP, SIZES, UNet


@pytest.mark.parametrize(
    ("scheduler", "ours"),
    [
        ({}, schedules.linear()),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, schedules.scaled_linear()),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}, schedules.cosine(50)),
        ({"rescale_betas_zero_snr": True}, schedules.zero_terminal_snr(schedules.linear())),
    ],
)
def test_a_pipeline_saved_there_is_read_here(scheduler, ours, tmp_path):
    theirs = randomised(UNet2DModel(**TINY))
    DDPMPipeline(theirs, DDPMScheduler(prediction_type="v_prediction", **scheduler)).save_pretrained(tmp_path)
    unet, schedule, prediction = load_pipeline(tmp_path)
    assert prediction == "v"
    assert schedule.T == ours.T
    # Theirs are float32: 6e-8. Rescaled, each is 1 − a quotient of differences that cancel towards T, to 2e-2 at worst.
    torch.testing.assert_close(schedule.beta, ours.beta, rtol=0, atol=6e-8 / 2e-2)
    x = torch.zeros(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, T4), theirs(x, K4).sample, rtol=1e-5, atol=1e-5)


def test_another_scheduler_of_the_folder_is_read_too(tmp_path):
    DDPMPipeline(UNet2DModel(**TINY), DDIMScheduler(steps_offset=1, prediction_type="sample")).save_pretrained(tmp_path)
    _, schedule, prediction = load_pipeline(tmp_path)
    assert (schedule.T, prediction) == (1000, "x0")


SIXTEEN = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(16))


@pytest.mark.parametrize(
    ("scheduler", "schedule", "prediction"),
    [
        (FlowMatchEulerDiscreteScheduler(), schedules.Flow(), "u"),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), schedules.Flow(), "u"),
        (FlowMatchEulerDiscreteScheduler(shift_terminal=0.1, use_karras_sigmas=True), schedules.Flow(), "u"),
        (EDMEulerScheduler(), schedules.EDM(), "F"),
        (EDMEulerScheduler(sigma_max=10.0, sigma_data=1.0, prediction_type="v_prediction"), schedules.EDM(10, 1), "F"),
        (EDMDPMSolverMultistepScheduler(solver_order=1, sigma_data=0.7), schedules.EDM(sigma_data=0.7), "F"),
    ],
)
def test_a_flow_and_edm_saved_there_sample_here_like_theirs(scheduler, schedule, prediction, tmp_path):
    theirs = randomised(UNet2DModel(**TINY))
    DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path)
    unet, found, found_prediction = load_pipeline(tmp_path)
    assert found_prediction == prediction
    assert type(found) is type(schedule)
    assert vars(found) == vars(schedule)

    scheduler.set_timesteps(6)
    xt = start = SIXTEEN * found.prior_std
    with torch.no_grad():
        for k in scheduler.timesteps:
            scaled = scheduler.scale_model_input(xt, k) if prediction == "F" else xt
            xt = scheduler.step(theirs(scaled, k).sample, k, xt).prev_sample
    times = scheduler.sigmas.double().clamp(max=found.T).tolist()
    x0 = samplers.ddim(denoise.from_network(unet, found, prediction), found, start, times)
    torch.testing.assert_close(x0, xt, rtol=1e-5, atol=1e-5)


def test_a_solver_that_walks_on_a_flow_is_read_as_one(tmp_path):
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    DDPMPipeline(UNet2DModel(**TINY), scheduler).save_pretrained(tmp_path)
    _, schedule, prediction = load_pipeline(tmp_path)
    scheduler.set_timesteps(4)
    for i, sigma in enumerate(scheduler.sigmas[:-1].double()):
        scheduler._step_index = i
        expected = scheduler.convert_model_output(SIXTEEN, sample=SIXTEEN.flip(0))
        found = predictions.to_x0(prediction, SIXTEEN, schedule, SIXTEEN.flip(0), sigma)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name = 'ScoreSdeVeScheduler': only schedulers of known"),
        ({"_class_name": None}, "_class_name = None: only schedulers of known schedules are read, DDIMInverse"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "prediction_type = 'epsilon' does not fit: DPMSolverMultistepScheduler needs flow_prediction on a flow",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "timestep_type = 'continuous' does not fit: EulerDiscreteScheduler needs discrete",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500},
            "num_train_timesteps = 500 does not fit: FlowMatchEulerDiscreteScheduler needs 1000",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "invert_sigmas": True},
            "invert_sigmas = True does not fit",
        ),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "'sample' does not fit: EDMEulerScheduler"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0}, "sigma_data = 0 does not fit: .* a positive number"),
        ({"_class_name": "EDMEulerScheduler", "sigma_max": "80"}, "sigma_max = '80' does not fit"),
        ({"prediction_type": "flow_prediction"}, "'flow_prediction' does not fit: DDPMScheduler needs one of epsilon"),
        ({"prediction_type": []}, r"prediction_type = \[\] does not fit"),
        ({"trained_betas": "none"}, "scheduler_config.json: DDPMScheduler cannot be made of its options"),
        ({"trained_betas": None, "beta_schedule": "steep"}, "DDPMScheduler cannot be made of its options"),
        ({"trained_betas": None, "beta_start": None}, "DDPMScheduler cannot be made of its options"),
        ({"trained_betas": None, "num_train_timesteps": -1}, "DDPMScheduler cannot be made of its options"),
    ],
)
def test_an_option_of_a_scheduler_that_does_not_fit_is_named(options, message, tmp_path):
    save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))
    with pytest.raises(ValueError, match=message):
        load_pipeline(tmp_path)


def test_a_flow_has_no_variance_to_learn(tmp_path):
    DDPMPipeline(UNet2DModel(**TINY | {"out_channels": 6}), FlowMatchHeunDiscreteScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"out_channels = 6 does not fit: Flow\(T=1\) has no variance to learn"):
        load_pipeline(tmp_path)


LEARNED = UNet(replace(SIZES["tiny"], learned_variance=True))


@pytest.mark.parametrize(
    ("network", "schedule", "prediction", "message"),
    [
        (MLP(2), schedules.linear(), "eps", "a pipeline of diffusers is made of a UNet, got MLP"),
        (UNet(SIZES["tiny"]), schedules.VP(), "eps", r"steps, such as schedules.cosine\(\), .* got VP\(T=1\)"),
        (
            UNet(SIZES["tiny"]),
            schedules.linear(),
            "score",
            "DDPMScheduler knows no prediction 'score'; train one of eps",
        ),
        (
            UNet(SIZES["tiny"]),
            schedules.Flow(),
            "v",
            "FlowMatchEulerDiscreteScheduler knows no prediction 'v'; .* of u",
        ),
        (UNet(SIZES["tiny"]), schedules.EDM(), "x0", "EDMEulerScheduler knows no prediction 'x0'; train one of F"),
        (LEARNED, schedules.EDM(), "F", "EDMEulerScheduler knows no learned variance"),
        (LEARNED, schedules.Flow(), "u", "FlowMatchEulerDiscreteScheduler knows no learned variance"),
    ],
)
def test_what_has_no_counterpart_is_named_and_nothing_is_written(network, schedule, prediction, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pipeline(tmp_path, network, schedule, prediction, 8)
    assert list(tmp_path.iterdir()) == []


def test_a_variance_that_is_learned_by_itself_is_refused(tmp_path):
    """Ours is between two bounds; read as one it would draw with other noise, and no word."""
    theirs = UNet2DModel(**TINY | {"out_channels": 6})
    DDPMPipeline(theirs, DDPMScheduler(variance_type="learned")).save_pretrained(tmp_path / "learned")
    with pytest.raises(ValueError, match="variance_type = 'learned' does not fit: our UNet needs learned_range"):
        load_pipeline(tmp_path / "learned")
    DDPMPipeline(theirs, DDPMScheduler(variance_type="learned_range")).save_pretrained(tmp_path / "range")
    assert load_pipeline(tmp_path / "range")[0].config.learned_variance
    DDPMPipeline(UNet2DModel(**TINY), DDPMScheduler(variance_type="learned")).save_pretrained(tmp_path / "none")
    load_pipeline(tmp_path / "none")  # nothing is learned there


@pytest.mark.parametrize("name", [name for name in _ON_BETAS if name != "DPMSolverSDEScheduler"])  # needs torchsde
def test_betas_that_a_file_does_not_say_are_those_of_its_scheduler(name):
    for options in ({"_class_name": name}, {"_class_name": name, "beta_end": 0.012}):
        schedule, prediction, _ = schedule_from_diffusers(options)
        expected = getattr(diffusers, name)(**{key: value for key, value in options.items() if key[0] != "_"}).betas
        assert prediction == "eps"
        assert torch.equal(schedule.beta[1:], expected.double())


@pytest.mark.parametrize("options", [_EDM, _FLOW, _BETAS], ids=lambda options: options.theirs)
def test_an_option_that_is_left_out_is_what_diffusers_takes(options):
    theirs = getattr(diffusers, options.theirs)().config
    known = {name: default for name, default in options.defaults.items() if name in theirs}
    assert known == {name: theirs[name] for name in known}
    assert options.defaults.keys() - known.keys() <= {"timestep_type"}  # EulerDiscreteScheduler has it
    assert diffusers.EulerDiscreteScheduler().config["timestep_type"] == _BETAS.defaults["timestep_type"]
