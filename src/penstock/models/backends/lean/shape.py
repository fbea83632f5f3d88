"""What the lean decoder must know of a Llama-like module of Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from penstock.models.backends import llama_family as decoders
from penstock.models.loading import checkpoint

_SMALLEST_HEAD = 16  # of the kernels' matrix units


class NotLean(Exception):
    """The lean decoder does not know this architecture, or one of its switches."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes, in elements. `windows` has one entry a layer, 0 for full attention."""

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int
    epsilon: float
    qk_norm: bool
    windows: tuple[int, ...]

    @property
    def qkv_size(self) -> int:
        """Width of the joined projection of queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head_size


def read(module: Any, context_length: int) -> Shape:
    """The shape of a module.

    :raises NotLean: it is not of the family, or differs from it in a switch.
    """
    config = checkpoint.text_config(module)
    try:
        decoder = decoders.read(config)
    except decoders.NotInFamily as reason:
        raise NotLean(str(reason)) from reason
    head_size = decoder.head_size
    if head_size & (head_size - 1) or head_size < _SMALLEST_HEAD:
        raise NotLean(f"heads of {head_size} elements")
    rotary = module.model.rotary_emb.inv_freq
    if not isinstance(rotary, torch.Tensor) or rotary.numel() * 2 != head_size:
        raise NotLean("rotary embeddings of a part of the head")
    return Shape(
        layers=decoder.layers,
        hidden_size=decoder.hidden_size,
        intermediate_size=decoder.intermediate_size,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_size=head_size,
        vocab_size=int(module.lm_head.weight.shape[0]),
        context_length=context_length,
        epsilon=decoder.norm_epsilon,
        qk_norm=decoder.qk_norm,
        windows=decoder.sliding_windows,
    )


def rotary_tables(
    module: Any, shape: Shape, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, (context_length, head_size / 2) float32 each, as the module has them."""
    rotary = module.model.rotary_emb
    frequencies = rotary.inv_freq.to(device, torch.float32)
    positions = torch.arange(shape.context_length, device=device, dtype=torch.float32)
    angles = positions[:, None] * frequencies[None, :]
    scaling = float(rotary.attention_scaling)
    return angles.cos() * scaling, angles.sin() * scaling
