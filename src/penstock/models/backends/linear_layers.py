"""The linear layers of a module that low-bit weights may stand in for."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from penstock.errors import first_line
from penstock.models.loading.libraries import transformers_module

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

BLOCK = 64  # every format's rows are whole blocks of this many weights
_ASKED_FOR_ITS_TYPE = {"DeepseekV32Indexer": "weights_proj", "GlmMoeDsaIndexer": "weights_proj"}
"""Layers whose owner gives them their input in the type of their weights, by the owner's class."""


@cache
def contiguous_class(kind: Any) -> Any:
    """bigdl-llm's layer for any input: its kernel reads a strided one as if it were contiguous."""

    class LowBitLinear(kind):
        """A LowBitLinear that lays its input out first, and takes an empty one."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """(..., in) -> (..., out) float32."""
            if x.numel() == 0:
                return x.new_empty((*x.shape[:-1], self.out_len), dtype=torch.float32)
            product: torch.Tensor = kind.forward(self, x.contiguous())
            return product

    return LowBitLinear


@torch.inference_mode()
def read_directly(module: Any) -> set[nn.Module]:
    """Linear layers whose weights their owner multiplies by itself, as some routers do.

    Found by one forward of two tokens: their owner runs and they do not. Packed weights would be
    read as numbers there. (That forward also lets a module change its weights once, as RWKV does.)
    """
    layers = list(linear_layers(module))
    ran: set[nn.Module] = set()
    parts: set[nn.Module] = {part for parent, _, layer in layers for part in (parent, layer)}

    def note(part: nn.Module, inputs: object) -> None:
        del inputs
        ran.add(part)

    hooks = [part.register_forward_pre_hook(note) for part in parts]
    try:
        module.eval()(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=False)
    except Exception as error:  # noqa: BLE001 - the check at the load's end has the last word
        logger.info("no forward before quantising: %s", first_line(error))
        return set()
    finally:
        for hook in hooks:
            hook.remove()
    return {layer for parent, _, layer in layers if parent in ran and layer not in ran}


def linear_layers(module: Any) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name, layer) of every linear layer whose rows are whole blocks.

    A router is left out even where its matrix is a layer of its own (Gemma 4): it stays as stored. So
    do the few weights of an index.
    """
    transposed = transformers_module("pytorch_utils").Conv1D
    for parent in module.modules():
        if type(parent).__name__.endswith("Router"):
            continue
        for name, child in parent.named_children():
            if name == _ASKED_FOR_ITS_TYPE.get(type(parent).__name__):
                continue
            # Routers that subclass it return more than a product.
            if type(child) in {nn.Linear, transposed} and matrix_of(child).shape[1] % BLOCK == 0:
                yield parent, name, child


def matrix_of(layer: Any) -> torch.Tensor:
    """(outputs, inputs) of a linear layer; GPT-2's have theirs the other way round."""
    weight: torch.Tensor = layer.weight.data
    return weight if isinstance(layer, nn.Linear) else weight.T
