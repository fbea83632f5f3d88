"""What the lean decoder must know of a Llama-like module of Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from penstock.models import checkpoint

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_ACTIVATIONS = ("silu", "swish")
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
    kind = str(config.model_type)
    if kind not in MODEL_TYPES:
        raise NotLean(f"{kind} is not one of {', '.join(MODEL_TYPES)}")
    if str(config.hidden_act) not in _ACTIVATIONS:
        raise NotLean(f"hidden_act {config.hidden_act!r}")
    heads = int(config.num_attention_heads)
    head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    if head_size & (head_size - 1) or head_size < _SMALLEST_HEAD:
        raise NotLean(f"heads of {head_size} elements")
    rotary = module.model.rotary_emb.inv_freq
    if not isinstance(rotary, torch.Tensor) or rotary.numel() * 2 != head_size:
        raise NotLean("rotary embeddings of a part of the head")
    return Shape(
        layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        intermediate_size=int(config.intermediate_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=head_size,
        vocab_size=int(module.lm_head.weight.shape[0]),
        context_length=context_length,
        epsilon=float(config.rms_norm_eps),
        qk_norm=kind == "qwen3",
        windows=tuple(_window(layer) for layer in module.model.layers)
        if kind != "mistral"
        else (int(getattr(config, "sliding_window", None) or 0),) * int(config.num_hidden_layers),
    )


def _window(layer: Any) -> int:
    return int(getattr(layer.self_attn, "sliding_window", None) or 0)


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
