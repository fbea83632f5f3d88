"""A model's context length, read from its configuration. Imports no torch."""

from __future__ import annotations

from typing import Any, Final

_NAMES: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_STRETCHED: Final = ("linear", "dynamic", "yarn", "longrope", "su")
"""Rules of rotary scaling whose factor extends the context of the first training."""


def positions(config: dict[str, Any]) -> int | None:
    """Return the longest sequence (tokens) that a configuration allows; None if it names no limit.

    That is the stated length, or the length before scaling times the rule's factor if that is more.
    Without an `original_max_position_embeddings`, the stated length counts as the one before
    scaling, as in FastChat and vLLM (`vicuna-7b-v1.5-16k` states 4096 and a factor of 4).
    """
    config = config.get("text_config") or config
    stated = next((_count(config.get(name)) for name in _NAMES if _count(config.get(name))), 0)
    rule: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rule.get("rope_type") or rule.get("type")  # neither, if each type of layer has a rule
    if stated and kind in _STRETCHED:
        original = rule.get("original_max_position_embeddings")
        original = original or config.get("original_max_position_embeddings")
        before = _count(original) or (stated if kind in ("linear", "dynamic") else 0)
        factor = rule.get("factor")
        if isinstance(factor, int | float) and factor > 1:
            stated = max(stated, int(before * factor))
    return stated or None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
