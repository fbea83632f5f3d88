"""Tables by position for the rotation and scaling of a described model's queries and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.loading.libraries import transformers_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.models.architecture.description import QueryGrowth, Rotation


@dataclass(slots=True)
class _Config:
    """The part of a configuration that Transformers' rules of scaling read."""

    rope_parameters: dict[str, Any]
    head_dim: int
    max_position_embeddings: int
    hidden_size: int = 0
    num_attention_heads: int = 1
    partial_rotary_factor: float = field(default=1.0)

    def standardize_rope_params(self) -> None:
        """Do nothing: they are in standard form already."""


def frequencies(rotation: Rotation, context_length: int) -> tuple[NDArray[np.float32], float]:
    """Return the `size` / 2 pairs' angle a position, and the factor of cosines and sines.

    The rules of scaling are Transformers' own. `context_length` is the served length: it fixes the
    rules that depend on the length seen so far.
    """
    if rotation.kind == "default":
        steps = np.arange(0, rotation.size, 2, dtype=np.int64).astype(np.float32)
        powers = np.power(np.float32(rotation.theta), steps / np.float32(rotation.size))
        return (np.float32(1.0) / powers).astype(np.float32), 1.0
    functions: dict[str, Any] = transformers_module("modeling_rope_utils").ROPE_INIT_FUNCTIONS
    config = _Config(dict(rotation.scaling), rotation.size, rotation.context)
    angles, scaling = functions[rotation.kind](config, device="cpu", seq_len=context_length)
    return angles.float().numpy(), float(scaling)


def rotary(
    rotation: Rotation, context_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines, (context_length, size) each, both halves of a row being equal.

    They are tables rather than operations, so that nothing loses precision at long positions.
    """
    angles, scaling = frequencies(rotation, context_length)
    positions = np.arange(context_length, dtype=np.float32)
    half = positions[:, None] * angles[None, :]
    angles_twice = np.concatenate((half, half), axis=1)
    return np.cos(angles_twice) * np.float32(scaling), np.sin(angles_twice) * np.float32(scaling)


def growths(growth: QueryGrowth, context_length: int) -> NDArray[np.float32]:
    """Return (context_length,) factors of queries, by position."""
    positions = np.arange(context_length, dtype=np.float32)
    steps = np.floor(positions / np.float32(growth.length))
    return np.float32(1) + np.float32(growth.beta) * np.log(np.float32(1) + steps)
