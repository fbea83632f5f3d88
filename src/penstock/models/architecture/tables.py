"""Tables of positions, as a described model turns and scales its queries and keys."""

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
    """Cosines and sines, (context_length, size) each, the second half of a row like its first.

    Tables of positions rather than operations: nothing can lose precision on long positions.
    """
    angles, scaling = frequencies(rotation, context_length)
    positions = np.arange(context_length, dtype=np.float32)
    half = positions[:, None] * angles[None, :]
    whole = np.concatenate((half, half), axis=1)
    return np.cos(whole) * np.float32(scaling), np.sin(whole) * np.float32(scaling)


def growths(growth: QueryGrowth, context_length: int) -> NDArray[np.float32]:
    """(context_length,): what queries are multiplied by at each position."""
    positions = np.arange(context_length, dtype=np.float32)
    steps = np.floor(positions / np.float32(growth.length))
    return np.float32(1) + np.float32(growth.beta) * np.log(np.float32(1) + steps)
