"""LoRA adapters beside the lean decoder's joined matrices, by torch's products."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends.lean import joined

if TYPE_CHECKING:
    from penstock.engine.model import Batch
    from penstock.models.adapters.adapter import LowRank
    from penstock.models.backends.lean.joined import Which
    from penstock.models.backends.lean.shape import Shape

_LAYER: Final = re.compile(r"model\.(?:language_model\.)?layers\.(\d{1,6})\.(.+)")


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
    own = LeanAdapter()
    for name, pair in adapter.pairs.items():
        match = _LAYER.fullmatch(name)
        index = -1 if match is None else int(match[1])
        place = _place_of(shape, index, f"model.layers.{index}.{match[2]}") if match else None
        if place is None:
            raise ModelNotLoadable(f"{adapter.path}: {name}: the base has no such matrix")
        matrix, first, outputs, inputs = place
        if (pair.up.shape[0], pair.down.shape[1]) != (outputs, inputs):
            raise ModelNotLoadable(f"{adapter.path}: {name}: the base's is {outputs} x {inputs}")
        part = Part(
            pair.down.to(device, kind), (pair.up.float() * pair.scale).to(device, kind), first
        )
        own.parts.setdefault((index, matrix), []).append(part)
    return own


def _place_of(shape: Shape, index: int, name: str) -> tuple[Which, int, int, int] | None:
    """A matrix's joined one, its first row there, its rows and columns; None if there is none."""
    if index >= shape.sizes.layers:
        return None
    for one in joined.of_layer(shape.model.layers[index], shape.sizes.hidden_size):
        first = 0
        for own, rows in one.matrices:
            if own == name:
                return one.which, first, rows, one.columns
            first += rows
    return None


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
