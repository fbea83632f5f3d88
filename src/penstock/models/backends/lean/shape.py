"""What the lean decoder must know of a Llama-like module of Transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from penstock.models.backends import llama_family as decoders
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from penstock.models.backends.llama_family import Decoder

_SMALLEST_HEAD = 16  # of the kernels' matrix units


class NotLean(Exception):
    """The lean decoder does not know this architecture, or one of its switches."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder with the context length that is served; its vocabulary is that of the head."""

    decoder: Decoder
    context_length: int


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
    vocab_size = int(module.lm_head.weight.shape[0])
    return Shape(replace(decoder, vocab_size=vocab_size), context_length)


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
