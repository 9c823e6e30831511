"""CLIP's towers against `transformers`: the same numbers from the same weights, both ways, and what is refused."""

import pytest
import torch

from diffusion_book.data.text import BytePairs
from diffusion_book.interop import (
    clip_text_from_transformers,
    clip_text_to_transformers,
    clip_vision_from_transformers,
    clip_vision_to_transformers,
)
from diffusion_book.nn import TextConfig, TextEncoder, ViT, ViTConfig

transformers = pytest.importorskip("transformers")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TINY = {
    **{"vocab_size": 99, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "eos_token_id": 98},
    **{"num_attention_heads": 4, "max_position_embeddings": 9, "projection_dim": 12},
}
TINY_VISION = {
    **{"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"image_size": 24, "patch_size": 8, "projection_dim": 12},
}


def theirs(cls, config):
    """A model of theirs with weights that no normalisation hides: theirs begin near zero, and biases at it."""
    torch.manual_seed(0)
    model = cls(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def text_model(projection=False, **options):
    cls = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return theirs(cls, transformers.CLIPTextConfig(**{**TINY, **options}))


def vision_model(projection=False, **options):
    cls = transformers.CLIPVisionModelWithProjection if projection else transformers.CLIPVisionModel
    return theirs(cls, transformers.CLIPVisionConfig(**{**TINY_VISION, **options}))


@pytest.fixture
def tokens(generator):
    """Beginning, pieces, an end; then padding by the end's number, as for Stable Diffusion 1, or by 0, as for 2."""
    rows = torch.randint(1, 97, (3, 9), generator=generator)
    rows[:, 0] = 97
    rows[0, 5:], rows[1, 8] = 98, 98
    rows[2, 3], rows[2, 4:] = 98, 0
    return rows


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [98, 2])
@torch.no_grad()
def test_a_text_is_encoded_as_theirs_encodes_it(tokens, activation, eos):
    model = text_model(hidden_act=activation, eos_token_id=eos, layer_norm_eps=1e-3)
    ours = clip_text_from_transformers(model.config.to_dict(), model.state_dict())
    expected = model(tokens)
    found = ours(tokens)
    torch.testing.assert_close(found.context, expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(found.pooled, expected.pooler_output, **CLOSE)
    assert found.mask.all()  # padding is looked at, as there


@torch.no_grad()
def test_the_layers_that_pipelines_take(tokens):
    """XL's: the hidden state before the last layer, as it is. 2's: the same, normalised. What is pooled is of all."""
    model = text_model()
    ours = clip_text_from_transformers(model.config.to_dict(), model.state_dict())
    expected = model(tokens, output_hidden_states=True)
    for skip in range(4):
        state = expected.hidden_states[-1 - skip]
        torch.testing.assert_close(ours(tokens, skip, norm=False).context, state, **CLOSE)
        normalised = model.final_layer_norm(state)
        torch.testing.assert_close(ours(tokens, skip).context, normalised, **CLOSE)
        torch.testing.assert_close(ours(tokens, skip).pooled, expected.pooler_output, **CLOSE)
    with pytest.raises(ValueError, match="skip must be a number of the 3 layers, got 4"):
        ours(tokens, skip=4)


@torch.no_grad()
def test_a_projection_is_found_by_its_weights(tokens, generator):
    model = text_model(projection=True)
    ours = clip_text_from_transformers(model.config.to_dict(), model.state_dict())
    torch.testing.assert_close(ours(tokens).pooled, model(tokens).text_embeds, **CLOSE)
    tower = vision_model(projection=True)
    x = torch.randn(2, 3, 24, 24, generator=generator)
    pooled = clip_vision_from_transformers(tower.config.to_dict(), tower.state_dict())(x).pooled
    torch.testing.assert_close(pooled, tower(x).image_embeds, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"hidden_act": "gelu", "num_channels": 1, "patch_size": 6}])
@torch.no_grad()
def test_a_picture_is_encoded_as_theirs_encodes_it(generator, options):
    model = vision_model(**options)
    ours = clip_vision_from_transformers(model.config.to_dict(), model.state_dict())
    x = torch.randn(2, options.get("num_channels", 3), 24, 24, generator=generator)
    expected = model(x, output_hidden_states=True)
    torch.testing.assert_close(ours(x).context, expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(ours(x).pooled, expected.pooler_output, **CLOSE)
    torch.testing.assert_close(ours(x, skip=1).context, expected.hidden_states[-2], **CLOSE)


@pytest.mark.parametrize("projection", [False, True])
def test_weights_go_back_bit_for_bit(projection):
    for model, there, back in (
        (text_model(projection), clip_text_from_transformers, clip_text_to_transformers),
        (vision_model(projection), clip_vision_from_transformers, clip_vision_to_transformers),
    ):
        # Where there is a projection, theirs calls what it projects a model in the model.
        state = {
            name.removeprefix("text_model.").removeprefix("vision_model."): v for name, v in model.state_dict().items()
        }
        options, weights = back(there(model.config.to_dict(), model.state_dict()))
        assert weights.keys() == state.keys()
        assert all(torch.equal(weights[name], value) for name, value in state.items())
        said = model.config.to_dict()
        assert {name: said[name] for name in options if name != "projection_dim" or projection} == {
            name: value for name, value in options.items() if name != "projection_dim" or projection
        }


@torch.no_grad()
def test_an_encoder_of_ours_is_written(tokens):
    torch.manual_seed(1)
    config = TextConfig(99, 9, 16, 2, 2, causal=True, activation="quick_gelu", padding=None, pool="end")
    ours = TextEncoder(config)
    options, weights = clip_text_to_transformers(ours)
    model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**options)).eval()
    model.load_state_dict(weights)
    torch.testing.assert_close(model(tokens).pooler_output, ours(tokens).pooled, **CLOSE)


def test_files_from_before_are_read_too(tokens):
    """ "text_model." before each name, and the numbers of the positions among the weights."""
    model = text_model()
    old = {f"text_model.{name}": value.half() for name, value in model.state_dict().items()}
    old["text_model.embeddings.position_ids"] = torch.arange(9)[None]
    found = clip_text_from_transformers(model.config.to_dict(), old)
    assert torch.equal(found.norm.weight, model.final_layer_norm.weight.half().float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act = 'relu' does not fit: our TextEncoder needs 'quick_gelu' or 'gelu'"),
        ({"eos_token_id": 7}, "eos_token_id = 7 does not fit: .* the largest number of a token, 98"),
        ({"num_attention_heads": 5}, "hidden_size = 32 does not fit: .* a multiple of 5 heads"),
    ],
)
def test_a_text_model_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        clip_text_from_transformers({**TINY, **options}, text_model().state_dict())


def test_a_lacking_weight_is_named():
    state = text_model().state_dict()
    del state["encoder.layers.1.mlp.fc2.bias"]
    with pytest.raises(ValueError, match=r"the weights lack encoder.layers.1.mlp.fc2.bias, of shape \(32,\)"):
        clip_text_from_transformers(TINY, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"causal": False},
            "causal = False cannot be written as a CLIPTextModel: its tokens look only at those before",
        ),
        ({"padding": 0}, "padding = 0 cannot be written"),
        ({"pool": "mean"}, "pool = 'mean' cannot be written"),
    ],
)
def test_an_encoder_that_they_have_not_is_refused(options, message):
    like_clip = {"causal": True, "padding": None, "pool": "end"}
    with pytest.raises(ValueError, match=message):
        clip_text_to_transformers(TextEncoder(TextConfig(9, 5, 16, 1, 2, **{**like_clip, **options})))
    with pytest.raises(ValueError, match="a CLIPTextModel is made of a TextEncoder, got ViT"):
        clip_text_to_transformers(ViT(ViTConfig(8, 4, 1, 16, 0, 2)))
    with pytest.raises(ValueError, match="a CLIPVisionModel is made of a ViT, got Linear"):
        clip_vision_to_transformers(torch.nn.Linear(1, 1))


@pytest.mark.slow
@torch.no_grad()
def test_the_text_model_of_vit_l_14_with_random_weights(tokens):
    """The one of Stable Diffusion 1: 123 million weights, one text."""
    config = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768, eos_token_id=2
    )
    torch.manual_seed(0)
    model = transformers.CLIPTextModel(config).eval()
    assert sum(p.numel() for p in model.parameters()) == 123_060_480
    ours = clip_text_from_transformers(config.to_dict(), model.state_dict())
    row = torch.full((1, 77), 49407)
    row[0, :5] = torch.tensor([49406, 320, 736, 2368, 49407])
    expected, found = model(row), ours(row)
    torch.testing.assert_close(found.context, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooler_output, rtol=0, atol=1e-5)


def test_the_tokenizer_gives_the_numbers_of_theirs(tmp_path):
    """Of a small vocabulary, learnt here and written in their form: vocab.json and merges.txt."""
    import json

    texts = ["a small red cat left of a big blue duck, on white", "two cats' hats", "the duck's red, red hat!"]
    pairs = BytePairs.learn(texts, merges=40)
    (tmp_path / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pairs.pieces)}))
    lines = "\n".join(" ".join(pair) for pair in pairs.merges)
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    for text in (*texts, "A  Naïve cat, 1234 of them: they'll sit", "", "日本 hat"):
        expected = theirs(text, padding="max_length", max_length=50, truncation=True)["input_ids"]
        assert pairs.rows([text], 50)[0].tolist() == expected, text
