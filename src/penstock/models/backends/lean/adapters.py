"""LoRA adapters beside the lean decoder's joined matrices, by torch's products."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    from penstock.engine.model import Batch
    from penstock.models.adapters.adapter import LowRank
    from penstock.models.backends.lean.shape import Shape

_LAYER: Final = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)")


@dataclass(frozen=True, slots=True)
class Part:
    """`scale` * `up` (`down` x) for outputs `first` and on of a joined matrix; `scale` is in `up`."""

    down: torch.Tensor
    up: torch.Tensor
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class LeanAdapter:
    """An adapter on the model's device: its parts by layer and joined matrix (`qkv`, `out`, ...)."""

    parts: dict[tuple[int, str], list[Part]] = field(
        default_factory=dict[tuple[int, str], list[Part]]
    )


@dataclass(frozen=True, slots=True)
class StepAdapters:
    """A step's adapters, each with the rows that use it, (n,) int64 on the device."""

    rows: tuple[tuple[LeanAdapter, torch.Tensor], ...]

    def add(self, layer: int, matrix: str, x: Any, product: torch.Tensor) -> torch.Tensor:
        """Add to a product (T, rows) of x (T, columns), in place."""
        for adapter, rows in self.rows:
            for part in adapter.parts.get((layer, matrix), ()):
                own = (x[rows].to(part.down.dtype) @ part.down.T) @ part.up.T
                into = product[:, part.first : part.first + own.shape[1]]
                into.index_add_(0, rows, own.to(product.dtype))
        return product


def place(adapter: LowRank, shape: Shape, device: torch.device, kind: torch.dtype) -> LeanAdapter:
    """Put an adapter on a device.

    :raises ModelNotLoadable: it changes other matrices than those of the layers, or does not fit.
    """
    decoder = shape.decoder
    across, keys = decoder.heads * decoder.head_size, decoder.kv_heads * decoder.head_size
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    places = {
        "q_proj": ("qkv", 0, across, hidden),
        "k_proj": ("qkv", across, keys, hidden),
        "v_proj": ("qkv", across + keys, keys, hidden),
        "o_proj": ("out", 0, hidden, across),
        "gate_proj": ("gate_up", 0, inner, hidden),
        "up_proj": ("gate_up", inner, inner, hidden),
        "down_proj": ("down", 0, hidden, inner),
    }
    own = LeanAdapter()
    for name, pair in adapter.pairs.items():
        match = _LAYER.fullmatch(name)
        if match is None or match[2] not in places or int(match[1]) >= decoder.layers:
            raise ModelNotLoadable(f"{adapter.path}: {name}: the base has no such matrix")
        matrix, first, outputs, inputs = places[match[2]]
        if (pair.up.shape[0], pair.down.shape[1]) != (outputs, inputs):
            raise ModelNotLoadable(f"{adapter.path}: {name}: the base's is {outputs} x {inputs}")
        part = Part(
            pair.down.to(device, kind), (pair.up.float() * pair.scale).to(device, kind), first
        )
        own.parts.setdefault((int(match[1]), matrix), []).append(part)
    return own


def of_step(batch: Batch, first_rows: list[int], device: torch.device) -> StepAdapters | None:
    """A step's adapters; `first_rows` are where the slices begin. None if none has one."""
    rows: dict[LeanAdapter, list[int]] = {}
    for part, first in zip(batch.slices, first_rows, strict=True):
        if part.adapter is not None:
            rows.setdefault(part.adapter, []).extend(range(first, first + len(part.token_ids)))
    if not rows:
        return None
    return StepAdapters(
        tuple((adapter, torch.tensor(own, device=device)) for adapter, own in rows.items())
    )
