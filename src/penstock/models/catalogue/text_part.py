"""The language model in a checkpoint that also takes images, by its configuration. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EQUIVALENT: Final = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""Language models that compute the same as another type if the text has no image.

Their rotation takes three positions of a token (time, height, width); in text these are equal.
"""

_ALWAYS: Final = {"qwen3_vl_moe_text": {"norm_topk_prob": True}}
"""A switch of the equivalent type that is fixed in the language model."""

PLAIN_WRAPPERS: Final = frozenset(
    {
        "aya_vision", "cohere2_vision", "gemma3", "gemma4", "idefics2", "idefics3", "internvl", "lfm2_vl", "llava",
        "llava_next", "llava_onevision", "minicpmv4_6", "minicpmv4_7", "mistral3", "ovis2", "qwen2_5_vl",
        "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "smolvlm",
    }
)  # fmt: skip
"""Checkpoints whose text passes only through their language model, as tests have shown.

Our decoders read these. Others are compared when they are loaded, and served by their module.
"""

TAKE_IMAGES: Final = frozenset(
    {
        "gemma3", "gemma4", "idefics3", "internvl", "llama4", "llava", "llava_next", "llava_onevision",
        "minicpmv4_6", "minicpmv4_7", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe",
        "qwen3_vl", "qwen3_vl_moe", "smolvlm",
    }
)  # fmt: skip
"""Checkpoints whose images are embeddings in the place of tokens, as tests have shown."""

MUTUAL: Final = frozenset({"gemma3"})
"""Those in which the tokens of an image see each other; others' configurations state it."""

IMAGES_BY_MODULE: Final = frozenset({"gemma4"})
"""Those whose images, in 16 and 32 bit, are read by Transformers' layers alone."""

_BODIES: Final = ("model.language_model.", "language_model.model.", "model.text_model.")
_HEADS: Final = ("language_model.lm_head.",)
_FORGET_GATE: Final = ".self_attn.forget_gate."
_ATTENTION: Final = ".self_attn."
_OF_KIMI: Final = (_FORGET_GATE, ".self_attn.f_a_proj.")
_DENSE: Final = tuple(f".block_sparse_moe.{part}_proj." for part in ("gate", "up", "down"))
"""Of dense layers, as Transformers writes them."""
_MODULE_EXPERTS: Final = (".mlp.gate.", ".mlp.experts.", ".mlp.shared_experts.")
_BACKBONE: Final = "backbone."
"""Of Nemotron-H, as published; Transformers' module calls it `model.`"""


def is_plain(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is a language model's, alone or in plain wrapping."""
    nested = isinstance(config.get("text_config"), dict)
    return config.get("model_type") in PLAIN_WRAPPERS or not nested


def as_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the language model's own configuration, under the type that computes it."""
    own = config.get("text_config")
    text = dict(cast("Mapping[str, Any]", own) if isinstance(own, dict) else config)
    kind = str(text.get("model_type"))
    if kind not in EQUIVALENT:
        return text
    text["model_type"] = EQUIVALENT[kind]
    text |= _ALWAYS.get(kind, {})
    for name in ("rope_parameters", "rope_scaling"):
        rules = text.get(name)
        if isinstance(rules, dict):
            text[name] = _with_one_position(cast("dict[str, Any]", rules))
    return text


def _with_one_position(rules: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in rules.items() if not name.startswith("mrope")}
    for name in ("rope_type", "type"):
        if plain.get(name) == "mrope":
            plain[name] = "default"
    return plain


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names that a plain language model would give a checkpoint's tensors.

    Maps `model.layers.0...` and `lm_head.weight` to the checkpoint's names; empty if the checkpoint
    is a plain language model.
    """
    all_names = list(names)
    if f"{_BACKBONE}embeddings.weight" in all_names:
        return {
            f"model.{name.removeprefix(_BACKBONE)}": name
            for name in all_names
            if name.startswith(_BACKBONE)
        }
    if any(part in name for name in all_names for part in _OF_KIMI):
        return {_of_kimi(name): name for name in all_names if _of_kimi(name) != name}
    body = next((part for part in _BODIES if f"{part}embed_tokens.weight" in all_names), None)
    if body is None:
        return {}
    names_ = {
        f"model.{name.removeprefix(body)}": name for name in all_names if name.startswith(body)
    }
    for head in _HEADS:
        names_ |= {
            f"lm_head.{name.removeprefix(head)}": name
            for name in all_names
            if name.startswith(head)
        }
    return names_


def _of_kimi(name: str) -> str:
    """Return the published name of a tensor of Kimi Linear, which Transformers may have written."""
    if any(part in name for part in _DENSE):
        return name.replace(".block_sparse_moe.", ".mlp.")
    if any(part in name for part in _MODULE_EXPERTS):
        return name.replace(".mlp.", ".block_sparse_moe.")
    return name.replace(_FORGET_GATE, _ATTENTION)
