"""Reads rotary embeddings from a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.models.architecture.description import QueryGrowth, Rotation
from penstock.models.architecture.facts import NotDescribed

if TYPE_CHECKING:
    from penstock.models.architecture.facts import Facts

KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
_WITH_LENGTH = ("yarn", "longrope", "llama3")
_OLD_NAMES = {"su": "longrope"}


def read(
    facts: Facts,
    head_size: int,
    *,
    layer_type: str | None = None,
    interleaved: bool = False,
    partial: float = 1.0,
) -> Rotation:
    """Return the rotation in a configuration, under today's key or those of older checkpoints.

    `layer_type` selects one if each type of layer has its own; `partial` is the family's rotated
    share of a head, if nothing is stated.

    :raises NotDescribed: an unknown rule, or one without its parameters.
    """
    rules = parameters(facts, layer_type)
    kind = str(rules.get("rope_type", rules.get("type", "default")))
    kind = _OLD_NAMES.get(kind, kind)
    if kind not in KINDS:
        raise NotDescribed(f"rope_type {kind!r} is unknown")
    share = rules.get("partial_rotary_factor", facts.raw("partial_rotary_factor"))
    share = partial if share is None else float(share)
    size = head_size if kind == "proportional" else int(head_size * share)
    if not 0 < size <= head_size or size % 2:
        raise NotDescribed(f"{size} of {head_size} elements of a head are rotated")
    theta = rules.get("rope_theta")
    context = facts.size("max_position_embeddings", 4096)
    scaling = {"rope_theta": facts.real("rope_theta", 10_000.0) if theta is None else float(theta)}
    scaling |= {name: value for name, value in rules.items() if value is not None}
    scaling |= {"rope_type": kind, "rope_theta": float(scaling["rope_theta"])}
    if kind in _WITH_LENGTH:
        stated = rules.get("original_max_position_embeddings", context)
        original = facts.raw("original_max_position_embeddings") or stated
        scaling["original_max_position_embeddings"] = original
    if kind != "proportional":
        scaling.pop("partial_rotary_factor", None)
    return Rotation(
        size=size,
        theta=float(scaling["rope_theta"]),
        kind=kind,
        interleaved=interleaved,
        context=context,
        scaling={} if kind == "default" else scaling,
    )


def parameters(facts: Facts, layer_type: str | None = None) -> dict[str, Any]:
    """Return the stated rotation, or that of one type of layers if each has its own."""
    rules = facts.mapping("rope_parameters") or facts.mapping("rope_scaling")
    if layer_type is not None and isinstance(rules.get(layer_type), dict):
        return rules[layer_type]
    return {name: value for name, value in rules.items() if not isinstance(value, dict)}


def growth(facts: Facts) -> QueryGrowth | None:
    """Return how queries grow with their position (Llama 4, Ministral 3); None if they do not."""
    rules = parameters(facts)
    beta = rules.get("llama_4_scaling_beta")
    length = rules.get("original_max_position_embeddings")
    if not beta or not length:
        return None
    return QueryGrowth(float(beta), int(length))
