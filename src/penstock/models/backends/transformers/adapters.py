"""LoRA adapters beside a module's linear layers: each sequence's rows get their own adapter's products."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from penstock.engine.model import Batch
    from penstock.models.adapters.adapter import LowRank, Pair
    from penstock.models.backends.steps import Step

_WRAPPING: Final = ("model.language_model.", "language_model.model.")
"""What a checkpoint that takes images has before its language model's names."""


@dataclass(frozen=True, slots=True, eq=False)
class ModuleAdapter:
    """An adapter on the model's device: its pairs by layer, in the type that the layer computes in."""

    pairs: dict[nn.Module, Pair]


Rows = list[tuple[ModuleAdapter, torch.Tensor]]
"""A step's adapters, each with the rows that use it."""


class StepAdapters:
    """Adds adapters to a module's linear layers by hooks, which are there once an adapter was loaded.

    `take` is called from any thread, the rest by the engine's.
    """

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._hooked: set[nn.Module] = set()
        self._taking = threading.Lock()
        self._tokens: Rows = []
        self._wanted: Rows = []
        self._whole: ModuleAdapter | None = None

    def take(self, adapter: LowRank) -> ModuleAdapter:
        """See `penstock.models.adapters.adapter.AdapterModel`."""
        layers = {_plain(name): layer for name, layer in self._module.named_modules()}
        pairs: dict[nn.Module, Pair] = {}
        for name, pair in adapter.pairs.items():
            layer = layers.get(_plain(name))
            fault = _fault(name, layer, pair)
            if layer is None or fault:
                raise ModelNotLoadable(f"{adapter.path}: {name}: {fault}")
            pairs[layer] = type(pair)(
                pair.down.to(self._device, self._module.dtype),
                pair.up.to(self._device, self._module.dtype),
                pair.scale,
            )
        with self._taking:
            for layer in pairs.keys() - self._hooked:
                layer.register_forward_hook(self._add)
                self._hooked.add(layer)
        return ModuleAdapter(pairs)

    def begin(self, batch: Batch, step: Step) -> None:
        """Note which rows of a step, and of its wanted rows, use which adapter."""
        self._tokens, self._wanted, self._whole = [], [], None
        if all(part.adapter is None for part in batch.slices):
            return
        tokens: dict[ModuleAdapter | None, list[int]] = {}
        wanted: dict[ModuleAdapter | None, list[int]] = {}
        row = 0
        for part, first in zip(batch.slices, step.first_rows, strict=True):
            count = len(part.token_ids)
            tokens.setdefault(part.adapter, []).extend(range(first, first + count))
            wanted.setdefault(part.adapter, []).extend(range(row, row + count - part.logits_from))
            row += count - part.logits_from
        self._tokens = self._rows(tokens)
        self._wanted = self._rows(wanted)

    def begin_one(self, adapter: ModuleAdapter | None) -> None:
        """Note that all rows of the next forwards use one adapter."""
        self._tokens, self._wanted, self._whole = [], [], adapter

    def _rows(self, rows: dict[ModuleAdapter | None, list[int]]) -> Rows:
        return [
            (adapter, torch.tensor(own, dtype=torch.int64, device=self._device))
            for adapter, own in rows.items()
            if adapter is not None and own
        ]

    def _add(self, layer: nn.Module, inputs: Sequence[Any], output: torch.Tensor) -> torch.Tensor:
        """Add the adapters' products to a layer's output, (..., rows, outputs)."""
        if self._whole is not None:
            pair = self._whole.pairs.get(layer)
            return output if pair is None else output + _product(inputs[0], pair).to(output.dtype)
        if not self._tokens:
            return output
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        head = layer is self._module.get_output_embeddings()
        flat = output.reshape(-1, output.shape[-1]).clone()
        for adapter, rows in self._wanted if head else self._tokens:
            pair = adapter.pairs.get(layer)
            if pair is not None:
                flat.index_add_(0, rows, _product(x[rows], pair).to(flat.dtype))
        return flat.view(output.shape)


def _product(x: torch.Tensor, pair: Pair) -> torch.Tensor:
    return (x.to(pair.down.dtype) @ pair.down.T) @ pair.up.T * pair.scale


def _plain(name: str) -> str:
    for wrapping in _WRAPPING:
        if name.startswith(wrapping):
            return f"model.{name.removeprefix(wrapping)}"
    return name


def _fault(name: str, layer: Any, pair: Pair) -> str:
    """Why a pair cannot be added to a layer; empty if it can."""
    if layer is None:
        return "the base has no such layer"
    if ".experts." in name:
        return "adapters of experts are not computed"
    sizes = next(
        (
            (getattr(layer, inputs), getattr(layer, outputs))
            for inputs, outputs in (("in_features", "out_features"), ("nx", "nf"))
            if hasattr(layer, inputs) and hasattr(layer, outputs)
        ),
        None,
    )
    if sizes is None:
        return f"a {type(layer).__name__} is no linear layer"
    own = (pair.down.shape[1], pair.up.shape[0])
    return "" if own == sizes else f"{own[0]} to {own[1]}, the base has {sizes[0]} to {sizes[1]}"
