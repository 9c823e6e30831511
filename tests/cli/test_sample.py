"""`diffusion-book sample` and `export`: every form of model, of picture and of mistake."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_book import data, models, nn, samplers, schedules
from diffusion_book.data import pictures
from diffusion_book.samplers import SAMPLERS
from diffusion_book.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def tiny(folder, name, seed=0, schedule="cosine", T=60, prediction="v", patch=4, dropout=0.1, **config):
    """A network that was never trained, but whose every weight matters; and a card that knows its images' size."""
    path = folder / f"{name}.safetensors"
    torch.manual_seed(seed)
    network = nn.UNet(
        nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, patch=patch, **config)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sha256 = models.save(path, network, schedule, T, prediction)
    recipe = {"data": "mnist-5k", "size": None, "schedule": schedule, "T": T, "condition_dropout": dropout}
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256, "recipe": recipe, "name": name}))
    return path


@pytest.fixture(scope="module")
def digits(folder):
    return tiny(folder, "digits", classes=10)


def bytes_of(path):
    return np.load(path)["arr_0"]


def test_a_grid_is_written_and_said(run, digits, tmp_path):
    result = run("sample", "--model", digits, "--class", "7", "--steps", 2)
    assert "16 pictures: samples.png" in result.output
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.mode == "L"
        assert grid.size == (5 * (4 * 30 + 2), 5 * (4 * 30 + 2))


def test_a_picture_is_what_the_library_draws_from_its_seed(run, digits, tmp_path):
    run("sample", "-m", digits, "-c", 7, "-n", 3, "--seed", 4, "--steps", 5, "-o", "a.npz")
    model = models.load(digits)
    for i, seed in enumerate((4, 5, 6)):
        x_T = samplers.start_noise((1, 1, 28, 28), torch.Generator().manual_seed(seed))
        times = samplers.log_snr_times(model.schedule, 5)
        x0 = samplers.dpm_solver(model.denoiser({"y": torch.tensor([7])}), model.schedule, x_T, times)
        expected = ((x0[0, 0].double() + 1) * 127.5).clamp(0, 255)
        # Half a byte of rounding, and a little for sums in another order.
        assert np.abs(bytes_of(tmp_path / "a.npz")[i, :, :, 0] - expected.numpy()).max() < 0.51
    arrays = np.load(tmp_path / "a.npz")
    assert arrays["seeds"].tolist() == [4, 5, 6]
    assert arrays["labels"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_same_picture_whatever_the_batch(run, digits, tmp_path, sampler):
    words = ["sample", "-m", digits, "-c", 3, "--steps", 4, "--sampler", sampler.replace("_", "-")]
    run(*words, "-n", 5, "-o", "all.npz")
    run(*words, "-n", 2, "--seed", 3, "-o", "two.npz")
    run(*words, "-n", 5, "--batch-size", 2, "-o", "parts.npz")
    whole = bytes_of(tmp_path / "all.npz").astype(int)
    assert np.abs(whole[3:] - bytes_of(tmp_path / "two.npz")).max() <= 1  # a rounding may fall either way
    assert np.abs(whole - bytes_of(tmp_path / "parts.npz")).max() <= 1
    assert np.abs(whole[0] - whole[1]).max() > 9


def test_classes_come_in_turn_and_fill_the_columns(run, digits, tmp_path):
    run("sample", "-m", digits, "-c", "0,1", "-c", "9", "--steps", 2, "-o", "a.npz")
    assert np.load(tmp_path / "a.npz")["labels"].tolist() == [0, 1, 9] * 6  # 18 is the next multiple of 3
    run("sample", "-m", digits, "-c", "0,1,9", "--steps", 2, "-o", "a.png")
    with Image.open(tmp_path / "a.png") as grid:
        assert grid.width * 6 - grid.height * 3 == pytest.approx(3 * 2 * grid.width / (3 * 30 + 2), abs=1)


def test_guidance_is_that_of_the_library(run, digits, folder, tmp_path):
    worse = tiny(folder, "worse", seed=1, classes=10)
    words = ["sample", "-m", digits, "-c", 3, "-n", 2, "--steps", 3]
    run(*words, "-o", "plain.npz")
    run(*words, "--guidance", 2, "-o", "guided.npz")
    run(*words, "--guidance", 2, "--bad-model", worse, "-o", "auto.npz")
    run(*words, "--guidance", 2, "--interval", 0.5, 2, "-o", "between.npz")
    good, bad, y = models.load(digits), models.load(worse), {"y": torch.tensor([3, 3])}

    def auto(xt, t):
        x, z = good.denoiser(y, clip=False)(xt, t), bad.denoiser(y, clip=False)(xt, t)
        return (z + 2 * (x - z)).clamp(-1, 1)

    inside = []

    def between(xt, t):
        _, a, b = good.schedule.at(t)
        inside.append(0.5 < float((b / a)[0]) <= 2)
        return good.denoiser(y, 2.0 if inside[-1] else 1.0)(xt, t)

    denoisers = {"plain": good.denoiser(y), "guided": good.denoiser(y, 2.0), "auto": auto, "between": between}
    for name, denoiser in denoisers.items():
        seeds = [torch.Generator().manual_seed(i) for i in range(2)]
        x_T = samplers.start_noise((2, 1, 28, 28), seeds)
        x0 = samplers.dpm_solver(denoiser, good.schedule, x_T, samplers.log_snr_times(good.schedule, 3))
        expected = ((x0[:, 0].double() + 1) * 127.5).clamp(0, 255).numpy()
        assert np.abs(bytes_of(tmp_path / f"{name}.npz")[..., 0] - expected).max() < 0.51, name
    assert set(inside) == {True, False}
    assert "an interval is of guidance" in run(*words, "--interval", 0.5, 2, fails=True).stderr


def test_the_forms_of_output_hold_the_same_pictures(run, digits, tmp_path):
    words = ["sample", "-m", digits, "-n", 3, "--steps", 2, "--seed", 10, "-o"]
    run(*words, "a.npz")
    run(*words, "deep/a.npy")
    run(*words, "single")
    pictures = bytes_of(tmp_path / "a.npz")
    assert pictures.shape == (3, 28, 28, 1)
    assert (np.load(tmp_path / "deep" / "a.npy") == pictures).all()
    assert sorted(path.name for path in (tmp_path / "single").iterdir()) == ["000010.png", "000011.png", "000012.png"]
    with Image.open(tmp_path / "single" / "000011.png") as image:
        assert (np.asarray(image) == pictures[1, :, :, 0]).all()
    # A reader of folders takes them back.
    assert len(data.load(f"folder:{tmp_path / 'single'}")) == 3


def test_a_continuous_schedule_is_sampled(run, folder, tmp_path):
    flow = tiny(folder, "flow", schedule="flow", T=None, prediction="u")
    for sampler in SAMPLERS:
        run("sample", "-m", flow, "-n", 1, "--steps", 3, "--sampler", sampler, "-o", "a.npz")
        assert bytes_of(tmp_path / "a.npz").std() > 0


def test_noise_begins_at_the_schedules_own_level(run, folder, tmp_path):
    """EDM's is not 1."""
    edm = tiny(folder, "edm", schedule="edm", T=None, prediction="F")
    run("sample", "-m", edm, "-n", 2, "--steps", 4, "--sampler", "heun", "-o", "a.npz")
    model = models.load(edm)
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    x_T = samplers.start_noise((2, 1, 28, 28), seeds, schedule=model.schedule)
    x0 = samplers.heun(model.denoiser(), model.schedule, x_T, samplers.karras_times(model.schedule, 4))
    expected = ((x0[:, 0].double() + 1) * 127.5).clamp(0, 255).numpy()
    assert np.abs(bytes_of(tmp_path / "a.npz")[..., 0] - expected).max() < 0.51


def test_a_file_that_does_not_say_its_size_asks_for_it(run, digits, tmp_path):
    copy = tmp_path / "bare.safetensors"
    copy.write_bytes(digits.read_bytes())
    assert "such as --size 32" in run("sample", "-m", copy, "--steps", 2, fails=True).stderr
    run("sample", "-m", copy, "-n", 1, "--steps", 2, "--size", 16, "-o", "a.npz")
    assert bytes_of(tmp_path / "a.npz").shape == (1, 16, 16, 1)
    result = run("sample", "-m", copy, "-n", 1, "--steps", 2, "--size", 15, fails=True)
    assert "size = 15 does not fit this network, which needs a multiple of 4" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "seven"], "a class is a whole number, or several between commas, got 'seven'"),
        (["--class", "10"], "this model knows the classes 0 … 9, got 10"),
        (["--class", "-1"], "this model knows the classes 0 … 9, got -1"),
        (["--sampler", "dpm"], "unknown sampler 'dpm' (did you mean 'ddpm'?); choose one of ddpm, ddim"),
        (["--steps", "61"], "steps must be an integer in 1 … T = 60, got 61"),
        (["--guidance", "2"], "guidance needs labels: got w = 2"),
        (["-o", "a.gif"], "unknown ending; take one of"),
        (["--device", "tpu"], "device 'tpu' cannot be used here"),
        (["--bad-model", "DIGITS"], "give --guidance above 1"),
    ],
)
def test_a_mistake_is_one_line(run, digits, words, message):
    words = [str(digits) if word == "DIGITS" else word for word in words]
    result = run("sample", "-m", digits, *words, fails=True)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_seeds_beyond_64_bits_are_told_their_range(run, digits, tmp_path):
    words = ["sample", "-m", digits, "-n", 2, "--steps", 2, "-o", "x.npz", "--seed"]
    for seed in (99999999999999999999999, 2**63 - 1, -(2**63) - 1):
        refused = run(*words, seed, fails=True).stderr
        assert f"the seeds of 2 pictures must lie between −2^63 and 2^63 − 1, got --seed {seed}" in refused
    for seed in (2**63 - 2, -(2**63)):
        run(*words, seed)
        assert np.load(tmp_path / "x.npz")["seeds"].tolist() == [seed, seed + 1]


def test_what_is_in_the_way_is_not_overwritten(run, digits, tmp_path):
    (tmp_path / "a.png").mkdir()
    assert "a.png is a folder" in run("sample", "-m", digits, "-o", "a.png", fails=True).stderr
    (tmp_path / "taken").write_text("mine")
    assert "taken is a file" in run("sample", "-m", digits, "-o", "taken", fails=True).stderr
    assert "taken" in run("sample", "-m", digits, "-n", 1, "--steps", 2, "-o", "taken/a.png", fails=True).stderr
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_model_that_is_not_there_is_said_so(run, tmp_path, folder):
    assert "there is no model 'mnist-unte'" in run("sample", "-m", "mnist-unte", fails=True).stderr
    (tmp_path / "pickle.pt").write_bytes(b"not weights")
    assert "no safetensors file" in run("sample", "-m", "pickle.pt", fails=True).stderr
    classifier = folder / "classifier.safetensors"
    models.save(classifier, nn.Classifier(nn.ClassifierConfig(channels=4, features=8)))
    assert "a classifier does not denoise" in run("sample", "-m", classifier, "--size", 28, fails=True).stderr
    plain = tiny(folder, "plain")
    assert "trained without classes" in run("sample", "-m", plain, "-c", 1, fails=True).stderr
    needs = tiny(folder, "needs", classes=3, no_label=False, dropout=0.0)
    assert "this model needs a class, 0 … 2" in run("sample", "-m", needs, fails=True).stderr
    flow = tiny(folder, "other", schedule="flow", T=None)
    words = ["sample", "-m", plain, "--guidance", 2, "--bad-model", flow]
    assert "both models must denoise on one schedule" in run(*words, fails=True).stderr


# Export --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(run, tmp_path):
    run(
        *("train", "--steps", 2, "--batch-size", 4, "--set", "network.channels=16", "--set", "T=20", "-o", "run"),
        *("--set", "condition_dropout=0.1", "--set", "preview_every=0"),
    )
    return tmp_path / "run"


def test_a_run_becomes_a_file_of_weights_with_a_card(run, trained, tmp_path):
    run("export", "--model", trained, "--format", "safetensors", "-o", "one.safetensors")
    found = models.load(tmp_path / "one.safetensors")
    _, parts = checkpoint.load(checkpoint.latest(trained / "checkpoints"), only=["ema"])
    for name, value in found.network.state_dict().items():
        exact = parts["ema"][name]  # rounded to half precision, where that holds it
        assert (value - exact).abs().amax() <= exact.abs().amax() / 2**11, name
    assert found.card.recipe.steps == 2
    assert (found.schedule.T, found.prediction) == (20, "v")
    run("sample", "-m", "one.safetensors", "-n", 1, "--steps", 2)
    run("export", "-m", "one.safetensors", "-f", "safetensors", "-o", "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_run_becomes_a_pipeline(run, trained, tmp_path):
    pytest.importorskip("diffusers")
    from diffusion_book.interop import load_pipeline

    run("export", "--model", trained, "--out", "pipeline")
    network, schedule, prediction = load_pipeline(tmp_path / "pipeline", last_is_no_label=True, patch=2)
    assert prediction == "v"
    torch.testing.assert_close(schedule.beta, schedules.cosine(20).beta)
    ours = models.load(trained).network
    x, t, y = torch.linspace(-1, 1, 2 * 784).reshape(2, 1, 28, 28), torch.tensor([3, 17]), torch.tensor([1, 10])
    with torch.no_grad():
        expected, found = ours(x, t, y), network(x, t, y)
    assert expected.abs().max() > 0  # after two steps it is small
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()  # the rounding of a turned angle


def test_a_class_is_drawn_with_the_guidance_that_the_card_found_best(run, tmp_path):
    w, (low, high) = models.load("mnist-unet").card.best_guidance
    said = ("--guidance", w, "--interval", low, high)
    options = {"best": (), "said": said, "none": ("--guidance", 1), "any": ("--class", 3), "worse": said[:2]}
    line = f"guidance: {w:g} where {low:g} < σ ≤ {high:g}, which the model's card found best\n"
    for name, words in options.items():
        result = run("sample", "-m", "mnist-unet", "-c", 7, "-n", 2, "--steps", 3, *words, "-o", f"{name}.npy")
        chosen = line if name in ("best", "any") else ""  # what was typed need not be told
        assert result.stdout == f"2 pictures: {name}.npy\n{chosen}"
    drawn = {name: np.load(tmp_path / f"{name}.npy").astype(int) for name in options}
    assert (drawn["best"] == drawn["said"]).all()
    assert all((drawn["best"] != drawn[name]).any() for name in ("none", "any", "worse"))


def test_a_flow_becomes_a_pipeline(run, folder, tmp_path):
    pytest.importorskip("diffusers")
    from diffusion_book.interop import load_pipeline

    straight = tiny(folder, "straight", schedule="flow", T=None, prediction="u", patch=1, classes=10)
    result = run("export", "--model", straight, "--out", "pipeline")
    assert result.output == "diffusers: pipeline\n"  # no patches, and nothing to put together
    network, schedule, prediction = load_pipeline(tmp_path / "pipeline", last_is_no_label=True)
    assert (repr(schedule), prediction) == (repr(schedules.Flow()), "u")
    ours = models.load(straight).network
    x, t, y = torch.linspace(-1, 1, 1568).reshape(2, 1, 28, 28), torch.tensor([30.0, 700.0]), torch.tensor([1, 2])
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, y), ours(x, t, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mnist-unet", "mnist-flow"])
def test_a_model_of_the_zoo_draws_the_same_digits_there(run, tmp_path, name):
    """The steps of a person who has `diffusers` and the line that `export` prints."""
    pytest.importorskip("diffusers")
    from diffusers import DDIMScheduler, DiffusionPipeline

    said = run("export", "--model", name, "--out", "pipeline").output
    assert said.count("\n") == 2
    assert "torch.nn.functional.pixel_shuffle(x, 2)" in said
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    scheduler = pipeline.scheduler
    if name == "mnist-unet":
        scheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    scheduler.set_timesteps(5)
    noise, y = torch.randn(2, 4, 14, 14, generator=torch.Generator().manual_seed(3)), torch.tensor([7, 2])
    xt = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            xt = scheduler.step(pipeline.unet(xt, t, class_labels=y).sample, t, xt).prev_sample
    found = torch.nn.functional.pixel_shuffle(xt, 2)

    ours = models.load(name)
    whole = torch.nn.functional.pixel_shuffle(noise, 2)
    counted = name == "mnist-unet"
    times = [int(t) + 1 for t in scheduler.timesteps] + [0] if counted else scheduler.sigmas.double().tolist()
    x0 = samplers.ddim(ours.denoiser({"y": y}, clip=False), ours.schedule, whole, times)
    assert x0.shape == (2, 1, 28, 28)
    # A turned angle of up to 1000 is off by 1000 · 6e-8 in single precision, and a step passes on what it is given.
    torch.testing.assert_close(found, x0, rtol=0, atol=5e-4)
    assert x0.std() > 0.4, "these are digits"


@pytest.mark.parametrize("name", ["mnist-dit", "mnist-classifier"])
def test_a_model_without_counterpart_in_diffusers_is_told_the_other_format(run, tmp_path, name):
    kind = type(models.load_any(name).network).__name__
    told = run("export", "-m", name, "-o", "a", fails=True).stderr
    assert f"diffusers has no counterpart of a {kind}, only of a UNet; take --format safetensors" in told
    assert not (tmp_path / "a").exists()
    run("export", "-m", name, "-f", "safetensors", "-o", "a.safetensors")
    assert type(models.load_any(tmp_path / "a.safetensors").network).__name__ == kind


def test_what_cannot_be_exported_is_said_so(run, digits, folder, tmp_path):
    assert "ONNX is not written yet" in run("export", "-m", digits, "-o", "a", "-f", "onnx", fails=True).stderr
    assert "unknown format 'gguf'; choose" in run("export", "-m", digits, "-o", "a", "-f", "gguf", fails=True).stderr
    near = run("export", "-m", digits, "-o", "a", "-f", "safetensor", fails=True).stderr
    assert "unknown format 'safetensor' (did you mean 'safetensors'?)" in near
    preserving = tiny(folder, "preserving", schedule="vp", T=None, prediction="v")
    assert "diffusers has schedules with steps" in run("export", "-m", preserving, "-o", "a", fails=True).stderr
    words = ["export", "-m", digits, "-f", "safetensors", "-o"]
    assert "must end in .safetensors" in run(*words, "a.bin", fails=True).stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("command", [["sample", "--steps", 2], ["export", "--format", "safetensors"]])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(run, tmp_path, command):
    (tmp_path / "file").write_text("no folder")
    out = "file/seven.png" if command[0] == "sample" else "file/seven.safetensors"
    result = run(*command, "-m", "mnist-unet", "-o", out, fails=True)
    assert f"{out} cannot be written" in result.stderr
    assert "give another --out" in result.stderr


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz", "folder"])
def test_bytes_are_not_written_as_if_they_were_scaled(name, tmp_path):
    """A grid would make floats of them, all white."""
    x = torch.randint(256, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images must be floating point, got torch\.uint8"):
        pictures.write(x, tmp_path / name, 2, range(2))
    assert list(tmp_path.iterdir()) == []
