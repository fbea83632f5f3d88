"""The language model in a checkpoint that takes images too, by its configuration. No torch here."""

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
"""Language models that compute what another does once no image is in the text.

Their rotation takes three positions of a token (of time, height and width); in text these are one.
"""

_ALWAYS: Final = {"qwen3_vl_moe_text": {"norm_topk_prob": True}}
"""What is a switch of the equivalent, and fixed in the language model."""

PLAIN_WRAPPERS: Final = frozenset(
    {
        "aya_vision", "cohere2_vision", "gemma3", "idefics2", "idefics3", "internvl", "llava", "llava_next",
        "llava_onevision", "mistral3", "ovis2", "qwen2_5_vl", "qwen2_vl", "qwen3_vl",
        "qwen3_vl_moe", "smolvlm",
    }
)  # fmt: skip
"""Checkpoints whose text goes through their language model and nothing else, as tests have shown.

Decoders of our own read these. What is not here is compared at its load, and served by its module.
"""

_BODIES: Final = ("model.language_model.", "language_model.model.", "model.text_model.")
_HEADS: Final = ("language_model.lm_head.",)


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a folder's configuration is of a language model alone, or of one in plain wrapping."""
    nested = isinstance(config.get("text_config"), dict)
    return config.get("model_type") in PLAIN_WRAPPERS or not nested


def as_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's own configuration, under the type that computes it."""
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
    """Names of a language model alone for the tensors of its part of a checkpoint.

    `model.layers.0...` and `lm_head.weight`, each with the name that the checkpoint has for it;
    empty if the checkpoint is one of a language model alone.
    """
    all_names = list(names)
    body = next((part for part in _BODIES if f"{part}embed_tokens.weight" in all_names), None)
    if body is None:
        return {}
    found = {
        f"model.{name.removeprefix(body)}": name for name in all_names if name.startswith(body)
    }
    for head in _HEADS:
        found |= {
            f"lm_head.{name.removeprefix(head)}": name
            for name in all_names
            if name.startswith(head)
        }
    return found
