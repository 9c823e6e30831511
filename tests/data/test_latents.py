"""Latents of examples: what an encoder makes of them, once, with all that is known of the pictures."""

import pytest
import torch

from diffusion_book import data
from diffusion_book.data import Images, Scenes, encoded


def pictures(n: int = 70) -> Images:
    x = 2 * torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    return Images(x, {"y": torch.arange(n) % 3}, "made up", ("a", "b", "c"))


class Encoder:
    """The mean of each 2 × 2 pixels; it counts the pictures that it is shown."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return torch.nn.functional.avg_pool2d(x, 2)


def test_latents_are_what_the_encoder_says_with_the_conditions():
    source = pictures()
    latents = encoded(source, Encoder(), "encoder")
    assert (len(latents), latents.shape, latents.classes) == (70, (3, 4, 4), 3)
    assert (latents.name, latents.class_names) == ("latents of made up", ("a", "b", "c"))
    index = torch.tensor([69, 3, 3])
    z, told = latents.take(index)
    assert z.dtype == torch.float32
    # Numbers below 1 are kept in float16, of which two are 2^-11 apart or less.
    torch.testing.assert_close(z, torch.nn.functional.avg_pool2d(source.x[index], 2), rtol=0, atol=2**-12)
    assert told["y"].tolist() == [0, 0, 0]


def test_pictures_are_encoded_once(tmp_path):
    encoder = Encoder()
    first = encoded(pictures(), encoder, "encoder", tmp_path)
    again = encoded(pictures(), encoder, "encoder", tmp_path)
    assert encoder.seen == 70
    assert torch.equal(first.x0, again.x0)
    assert torch.equal(first.conditions["y"], again.conditions["y"])
    assert first.sha256 == again.sha256
    assert [file.name for file in tmp_path.iterdir()] == [f"{first.sha256}.safetensors"]


@pytest.mark.parametrize("what", ["the data", "the encoder", "the count"])
def test_another_of_anything_is_encoded_anew(what, tmp_path):
    encoder = Encoder()
    first = encoded(pictures(), encoder, "encoder", tmp_path)
    source = pictures(71) if what == "the data" else pictures()
    of, count = ("another", None) if what == "the encoder" else ("encoder", 60 if what == "the count" else None)
    other = encoded(source, encoder, of, tmp_path, count)
    assert encoder.seen > 70
    assert other.sha256 != first.sha256


def test_a_damaged_file_is_made_again(tmp_path):
    encoder = Encoder()
    first = encoded(pictures(), encoder, "encoder", tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(encoded(pictures(), encoder, "encoder", tmp_path).x0, first.x0)
    assert encoder.seen == 140


def test_the_first_of_an_endless_set_keep_their_captions():
    scenes = Scenes()
    latents = encoded(scenes, Encoder(), "encoder", count=5)
    assert len(latents) == 5
    index = torch.tensor([4, 0])
    assert torch.equal(latents.take(index)[1]["tokens"], scenes.take(index)[1]["tokens"])


def test_numbers_too_large_to_keep_are_told():
    with pytest.raises(ValueError, match=r"latents reach 1e\+05, too far for float16; scale them"):
        encoded(pictures(), lambda x: 1e5 * x.sign(), "encoder")
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
        encoded(pictures(), Encoder(), "encoder", count=0)
    assert data.Latents is type(encoded(pictures(), Encoder(), "encoder"))
