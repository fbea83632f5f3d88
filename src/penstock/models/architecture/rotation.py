"""Rotary embeddings: what a configuration says of them, and the tables that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.models.architecture.description import QueryGrowth, Rotation
from penstock.models.architecture.facts import NotDescribed
from penstock.models.loading.libraries import transformers_module

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    """The rotation that a configuration states, in today's key or in those of older checkpoints.

    `layer_type` picks one where each type of layers has its own; `partial` is the family's share
    of a head that is turned, if nothing is stated.

    :raises NotDescribed: an unknown rule, or one without what it needs.
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
        raise NotDescribed(f"{size} of {head_size} elements of a head are turned")
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
    """What is stated of the rotation, of one type of layers where each has its own."""
    rules = facts.mapping("rope_parameters") or facts.mapping("rope_scaling")
    if layer_type is not None and isinstance(rules.get(layer_type), dict):
        return rules[layer_type]
    return {name: value for name, value in rules.items() if not isinstance(value, dict)}


def growth(facts: Facts) -> QueryGrowth | None:
    """How queries grow with their position, as Llama 4 and Ministral 3 have it."""
    rules = parameters(facts)
    beta = rules.get("llama_4_scaling_beta")
    length = rules.get("original_max_position_embeddings")
    if not beta or not length:
        return None
    return QueryGrowth(float(beta), int(length))


@dataclass(slots=True)
class _Config:
    """What Transformers' rules of scaling read of a configuration."""

    rope_parameters: dict[str, Any]
    head_dim: int
    max_position_embeddings: int
    hidden_size: int = 0
    num_attention_heads: int = 1
    partial_rotary_factor: float = field(default=1.0)

    def standardize_rope_params(self) -> None:
        """Nothing: they are as they should be."""


def frequencies(rotation: Rotation, context_length: int) -> tuple[NDArray[np.float32], float]:
    """Of the `size` / 2 pairs the angle a position, and what cosines and sines are multiplied by.

    Every rule of scaling is Transformers' own. `context_length` is what is served: it fixes those
    rules that grow with the length seen so far.
    """
    import numpy as np  # noqa: PLC0415 - descriptions are read where it is not installed

    if rotation.kind == "default":
        steps = np.arange(0, rotation.size, 2, dtype=np.int64).astype(np.float32)
        powers = np.power(np.float32(rotation.theta), steps / np.float32(rotation.size))
        return (np.float32(1.0) / powers).astype(np.float32), 1.0
    functions: dict[str, Any] = transformers_module("modeling_rope_utils").ROPE_INIT_FUNCTIONS
    config = _Config(dict(rotation.scaling), rotation.size, rotation.context)
    angles, scaling = functions[rotation.kind](config, device="cpu", seq_len=context_length)
    return angles.float().numpy(), float(scaling)


def tables(
    rotation: Rotation, context_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, (context_length, size) each, the second half of a row like its first.

    Tables of positions rather than operations: nothing can lose precision on long positions.
    """
    import numpy as np  # noqa: PLC0415 - as above

    angles, scaling = frequencies(rotation, context_length)
    positions = np.arange(context_length, dtype=np.float32)
    half = positions[:, None] * angles[None, :]
    whole = np.concatenate((half, half), axis=1)
    return np.cos(whole) * np.float32(scaling), np.sin(whole) * np.float32(scaling)
