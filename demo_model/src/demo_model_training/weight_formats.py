"""Weight formats, simulated: what a linear weight is after being stored in fewer bits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = ("fp32", "bf16", "int8", "int4", "int4-64")
BLOCK = 32


def q4_0(weight: Tensor, block: int = BLOCK) -> Tensor:
    """`weight` through llama.cpp's q4_0.

    A block of weights of one output feature shares an fp16 scale: the value of largest magnitude
    over -8. Each weight is one of sixteen steps, -8 to 7. llama.cpp's blocks are of 32 weights;
    with blocks of 64 this is what bigdl-llm 2.4.0 calls `sym_int4` and stores on a CPU.
    """
    blocks = weight.float().reshape(-1, block)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = largest / -8.0
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
    steps = torch.clamp(torch.floor(blocks * inverse + 8.5), 0, 15) - 8
    return (steps * scale.half().float()).reshape(weight.shape).to(weight.dtype)


def int8(weight: Tensor) -> Tensor:
    """`weight` through symmetric INT8 with one scale for each output feature."""
    scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
    steps = torch.round(weight.float() / scale.clamp_min(1e-12)).clamp(-127, 127)
    return (steps * scale).to(weight.dtype)


@torch.no_grad()
def apply(model: Any, name: str) -> Any:
    """Put every linear weight of a Transformers causal LM, its head included, into a format.

    Activations stay in fp32 (bf16 for `bf16`). The embedding table keeps its own bf16 values:
    only the head's copy is quantised, as bigdl-llm does it.
    """
    if name == "bf16":
        return model.to(torch.bfloat16)
    model.float()
    if name == "fp32":
        return model
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # untied from the embedding
    model.config.tie_word_embeddings = False
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "int8": int8,
        "int4": q4_0,
        "int4-64": partial(q4_0, block=2 * BLOCK),
    }
    change = changes[name]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(change(module.weight))
    return model
