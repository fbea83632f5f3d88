"""Rotary embeddings whose frequencies depend on the length seen so far, made static.

`dynamic` and `longrope` recompute their frequencies from the longest position of a forward. In a
batch of many sequences one would change another's rotation, and cached keys would not match. So
the frequencies are fixed once, for the context length that is served.
"""

from __future__ import annotations

from typing import Any, cast

from penstock.models.loading.libraries import transformers_module

_GROWING = ("dynamic", "longrope")
_STATIC = "static"


def freeze(module: Any, context_length: int) -> None:
    """Fix the frequencies of every rotary embedding of `module` for `context_length` tokens."""
    for part in module.modules():
        kind: Any = getattr(part, "rope_type", None)
        if isinstance(kind, str) and kind in _GROWING:
            _fix(part, kind, context_length, "", {})
            part.rope_type = _STATIC
        elif isinstance(kind, dict):  # one type a kind of layer
            kinds = cast("dict[str, str]", kind)
            for layer_type in list(kinds):
                if kinds[layer_type] in _GROWING:
                    only = {"layer_type": layer_type}
                    _fix(part, kinds[layer_type], context_length, f"{layer_type}_", only)
                    kinds[layer_type] = _STATIC


def _fix(part: Any, kind: str, context_length: int, prefix: str, only: dict[str, str]) -> None:
    functions: dict[str, Any] = transformers_module("modeling_rope_utils").ROPE_INIT_FUNCTIONS
    device = getattr(part, f"{prefix}inv_freq").device
    frequencies, scaling = functions[kind](
        part.config, device=device, seq_len=context_length, **only
    )
    setattr(part, f"{prefix}inv_freq", frequencies)
    setattr(part, f"{prefix}original_inv_freq", frequencies.clone())
    setattr(part, f"{prefix}attention_scaling", scaling)
