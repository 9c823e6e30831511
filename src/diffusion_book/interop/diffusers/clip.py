"""CLIP's two towers to and from `transformers`, as the pipelines of `diffusers` have them. Chapters 9 and 13.

    encoder = clip_text_from_transformers(theirs.config.to_dict(), theirs.state_dict())
    context, _, pooled = encoder(BytePairs.read(path).rows(["a red cat"]))

What a pipeline takes of a text is `skip` and `norm` of the call, see `TextEncoder`: Stable Diffusion 1 all layers, with
the last normalisation; Stable Diffusion 2 skips a layer (its folder leaves the layer out, and nothing is to be skipped)
and normalises; Stable Diffusion XL skips one, with norm=False, and takes what its second encoder pools besides.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_book.interop.diffusers.options import ANYTHING, COUNT, POSITIVE, Option, Options, Said, among
from diffusion_book.interop.diffusers.weights import Renames, Weights
from diffusion_book.nn import TextConfig, TextEncoder, ViT, ViTConfig
from diffusion_book.nn.build import uncompiled

_ACTIVATIONS = among({"quick_gelu": "quick_gelu", "gelu": "gelu"})
_BLOCKS: Renames = [
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.qkv\.", (r".self_attn.q_proj.", r".self_attn.k_proj.", r".self_attn.v_proj.")),
    (r"\.out\.", ".self_attn.out_proj."),
    (r"\.expand\.", ".mlp.fc1."),
    (r"\.contract\.", ".mlp.fc2."),
    (r"^positions\.", "embeddings.position_embedding."),
]


def _of_both(c: Any) -> dict[str, Any]:
    return {"intermediate_size": c.hidden or 4 * c.width, "projection_dim": c.projection or c.width}


# Texts ---------------------------------------------------------------------------------------------------------------


def _text_rules(o: Any) -> Said:
    last = o.vocab_size - 1
    yield "hidden_size", o.hidden_size % o.num_attention_heads == 0, f"a multiple of {o.num_attention_heads} heads"
    # 2 is what files from before 2023 say; theirs then takes the largest number, as ours always does.
    yield "eos_token_id", o.eos_token_id in (2, last), f"the largest number of a token, {last}, as the end of a text"


def _text_refused(c: Any) -> Said:
    yield "causal", c.causal, "its tokens look only at those before them"
    yield "padding", c.padding is None, "all tokens count in it"
    yield "pool", c.pool == "end", "the token at the end stands for its texts"


_TEXT_OPTIONS = Options(
    "CLIPTextModel",
    {
        "vocab_size": Option(49408, COUNT, "vocabulary"),
        "hidden_size": Option(512, COUNT, "width"),
        "intermediate_size": Option(2048, COUNT),
        "projection_dim": Option(512),
        "num_hidden_layers": Option(12, COUNT, "layers"),
        "num_attention_heads": Option(8, COUNT, "heads"),
        "max_position_embeddings": Option(77, COUNT, "length"),
        "hidden_act": Option("quick_gelu", _ACTIVATIONS, "activation"),
        "layer_norm_eps": Option(1e-5, POSITIVE, "eps"),
        "eos_token_id": Option(49407, ANYTHING),
    },
    _text_rules,
    lambda o: {"hidden": o.intermediate_size, "causal": True, "padding": None, "pool": "end"},
    _text_refused,
    lambda c: {"eos_token_id": c.vocabulary - 1, **_of_both(c)},
)
_TEXT_WEIGHTS = Weights(
    "this encoder of texts",
    renames=[
        (r"^tokens\.", "embeddings.token_embedding."),
        (r"^norm\.", "final_layer_norm."),
        (r"^project\.", "text_projection."),
        *_BLOCKS,
    ],
    old=[(r"^text_model\.", "")],
)


def clip_text_from_transformers(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> TextEncoder:
    """The encoder of a `CLIPTextModel`, or of one with projection, in float32 and ready to evaluate.

    Args:
        config: its options, as in its config.json; those left out have its defaults, others of them do not matter here.
        state_dict: its weights, in any precision, with or without "text_model." before the names.

    Raises:
        ValueError: an option or a weight does not fit a `TextEncoder`; the message names the first.
    """
    found = _weights_of(state_dict)
    ours = TextConfig(**_TEXT_OPTIONS.read(config, "our TextEncoder"), projection=_rows(found, "text_projection"))
    with torch.device("meta"):
        encoder = TextEncoder(ours)
    encoder.load_state_dict(_TEXT_WEIGHTS.read(found, encoder.state_dict()), assign=True)
    return encoder.eval()


def clip_text_to_transformers(encoder: TextEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and weights with which a `CLIPTextModel` is our encoder; weights read from one go back bit for bit.

    Raises:
        ValueError: an option of the encoder is not one of `CLIPTextModel`'s; the message names the first.
    """
    network = uncompiled(encoder)
    if not isinstance(network, TextEncoder):
        raise ValueError(f"a CLIPTextModel is made of a TextEncoder, got {type(encoder).__name__}")
    options = _TEXT_OPTIONS.defaults | _TEXT_OPTIONS.write(network.config)
    return options, _TEXT_WEIGHTS.write(network.state_dict())


# Pictures ------------------------------------------------------------------------------------------------------------


def _vision_rules(o: Any) -> Said:
    yield "hidden_size", o.hidden_size % o.num_attention_heads == 0, f"a multiple of {o.num_attention_heads} heads"
    yield "image_size", o.image_size % o.patch_size == 0, f"a multiple of patch_size = {o.patch_size}"


_VISION_OPTIONS = Options(
    "CLIPVisionModel",
    {
        "hidden_size": Option(768, COUNT, "width"),
        "intermediate_size": Option(3072, COUNT),
        "projection_dim": Option(512),
        "num_hidden_layers": Option(12, COUNT, "layers"),
        "num_attention_heads": Option(12, COUNT, "heads"),
        "num_channels": Option(3, COUNT, "image_channels"),
        "image_size": Option(224, COUNT, "size"),
        "patch_size": Option(32, COUNT, "patch"),
        "hidden_act": Option("quick_gelu", _ACTIVATIONS, "activation"),
        "layer_norm_eps": Option(1e-5, POSITIVE, "eps"),
    },
    _vision_rules,
    lambda o: {"hidden": o.intermediate_size},
    to_theirs=_of_both,
)
_VISION_WEIGHTS = Weights(
    "this vision transformer",
    renames=[
        (r"^patches\.", "embeddings.patch_embedding."),
        (r"^first$", "embeddings.class_embedding"),
        (r"^norm_in\.", "pre_layrnorm."),  # the name that it has there
        (r"^norm\.", "post_layernorm."),
        (r"^project\.", "visual_projection."),
        *_BLOCKS,
    ],
    old=[(r"^vision_model\.", "")],
)


def clip_vision_from_transformers(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> ViT:
    """The tower of pictures of a `CLIPVisionModel`, or of one with projection, in float32 and ready to evaluate.

    Args:
        config, state_dict: as for `clip_text_from_transformers`, with "vision_model." in the place of "text_model.".

    Raises:
        ValueError: an option or a weight does not fit a `ViT`; the message names the first.
    """
    found = _weights_of(state_dict)
    ours = ViTConfig(**_VISION_OPTIONS.read(config, "our ViT"), projection=_rows(found, "visual_projection"))
    with torch.device("meta"):
        tower = ViT(ours)
    tower.load_state_dict(_VISION_WEIGHTS.read(found, tower.state_dict()), assign=True)
    return tower.eval()


def clip_vision_to_transformers(tower: ViT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and weights with which a `CLIPVisionModel` is our tower; weights read from one go back bit for bit.

    Raises:
        ValueError: it is no `ViT`.
    """
    network = uncompiled(tower)
    if not isinstance(network, ViT):
        raise ValueError(f"a CLIPVisionModel is made of a ViT, got {type(tower).__name__}")
    options = _VISION_OPTIONS.defaults | _VISION_OPTIONS.write(network.config)
    return options, _VISION_WEIGHTS.write(network.state_dict())


def _weights_of(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the numbers of the positions, which old files keep as if they were weights."""
    return {name: value for name, value in state_dict.items() if not name.endswith("embeddings.position_ids")}


def _rows(found: Mapping[str, Tensor], layer: str) -> int:
    """How many features a projection has; 0 where there is none. No configuration says whether there is one."""
    weight = found.get(f"{layer}.weight")
    return 0 if weight is None else len(weight)
