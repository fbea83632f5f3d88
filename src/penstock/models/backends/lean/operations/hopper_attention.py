# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""When and how the kernel of long chunks on NVIDIA's Hopper is launched."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from importlib import import_module
from math import log2
from typing import TYPE_CHECKING, Any, Final

import torch
import triton

from penstock.models.backends.lean.graphs.step_rows import FIELDS, Step
from penstock.models.backends.lean.operations.ops import LayerCache
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.backends.lean.operations.ops import AttentionLayer

    Attend = Callable[[torch.Tensor, Step, AttentionLayer, torch.Tensor], None]

logger = logging.getLogger(__name__)

_LOG2_E: Final = log2(2.718281828459045)

LEAST_TOKENS: Final = 512
"""Tokens of the longest chunk from which on the kernel is faster."""

_MOST_IDLE: Final = 2
"""How many times the programs with work there may be, as each chunk has as many as the longest."""

_HEAD_SIZE: Final = 128
_QUERIES: Final = 128
"""Of one program."""

_AT_ONCE: Final = 128
"""Programs, about, that run at once on a Hopper GPU for servers."""

_MOST_ERROR: Final = 0.02
"""Difference of both kernels' results over their size; of bf16 it is 0.002."""

FORM: dict[str, Any] = {
    "TILE": 128,
    "STAGES": 2,
    "REGISTERS": 224,
    "num_warps": 4,
    "maxnreg": 168,
}
"""Found by trying on an H200."""

_tried: dict[tuple[torch.device, torch.dtype, int, int], bool] = {}


def can_attend(qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> bool:
    """Return whether the kernel is there for a step's chunks, and the faster one."""
    return (
        step.longest_chunk >= LEAST_TOKENS
        and _grid_tokens(step) <= _MOST_IDLE * (step.count - step.decodes)
        and layer.shape.sizes.head_size == _HEAD_SIZE
        and not (layer.window or layer.soft_cap or layer.sinks is not None)
        and qkv.element_size() == 2  # noqa: PLR2004 - bytes
        and kernel_of(qkv.device) is not None
    )


def works(qkv: torch.Tensor, layer: AttentionLayer, plain: Attend) -> bool:
    """Return whether the kernel compiles here and computes what the plain one does; tried once.

    What it is written in changes from one Triton to the next.
    """
    sizes = layer.shape.sizes
    key = (qkv.device, qkv.dtype, sizes.heads, sizes.kv_heads)
    if key not in _tried:
        try:
            error = _difference(qkv, layer, plain)
        except Exception as fault:  # noqa: BLE001 - the plain kernel is there
            logger.warning("long chunks by the plain kernel: %s", checkpoint.first_line(fault))
            error = float("nan")
        else:
            if not error <= _MOST_ERROR:
                logger.warning("long chunks by the plain kernel: Hopper's differs by %.2g", error)
        _tried[key] = error <= _MOST_ERROR
    return _tried[key]


def _difference(qkv: torch.Tensor, layer: AttentionLayer, plain: Attend) -> float:
    """Of both kernels' results for a short chunk of random numbers, over their size."""
    tokens, before, sizes, place = 200, 77, layer.shape.sizes, qkv.device
    source = torch.Generator(place).manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, dtype=qkv.dtype, device=place, generator=source)

    blocks = triton.cdiv(before + tokens, BLOCK_SIZE)
    parts = (draw(blocks, sizes.kv_heads, BLOCK_SIZE, sizes.head_size) for _ in range(2))
    layer = replace(layer, cache=LayerCache(*parts))
    order = torch.arange(blocks - 1, -1, -1, dtype=torch.int32, device=place)
    chunks = torch.tensor([[0, tokens, before, 0]], dtype=torch.int32, device=place)
    fields = torch.zeros((FIELDS, tokens), dtype=torch.int32, device=place)
    step = Step(fields, fields[0], order[None], 0, chunks, tokens)
    rows = draw(tokens, qkv.shape[1])
    by_plain, own = (rows.new_zeros((tokens, sizes.heads * sizes.head_size)) for _ in range(2))
    plain(rows, step, layer, by_plain)
    prefill(rows, step, layer, own)
    return float((own.float() - by_plain.float()).norm() / by_plain.float().norm())


def _grid_tokens(step: Step) -> int:
    return 0 if step.chunks is None else step.longest_chunk * len(step.chunks)


@cache
def kernel_of(place: torch.device) -> Any | None:
    """Return the kernel, if a device is of NVIDIA's Hopper, and Triton has what the kernel needs."""
    if place.type != "cuda" or torch.version.cuda is None:
        return None
    if torch.cuda.get_device_capability(place)[0] != 9:  # noqa: PLR2004 - Hopper
        return None
    try:
        module = import_module("penstock.models.backends.lean.kernels.prefill_hopper")
    except ImportError as error:
        logger.info("long chunks without Gluon: %s", checkpoint.first_line(error))
        return None
    return module.prefill_kernel


def prefill(qkv: torch.Tensor, step: Step, layer: AttentionLayer, out: torch.Tensor) -> None:
    """Attend with the step's chunks of prompts; writes their rows of `out`."""
    sizes, cache_ = layer.shape.sizes, layer.cache
    kernel = kernel_of(qkv.device)
    assert step.chunks is not None  # noqa: S101 - the caller has looked
    assert kernel is not None  # noqa: S101 - likewise
    tiles = triton.cdiv(step.longest_chunk, _QUERIES)
    tables = step.tables_of(apart=layer.apart)
    kernel[(sizes.heads * tiles, len(step.chunks))](
        qkv,
        cache_.keys,
        cache_.values,
        step.chunks,
        tables,
        out,
        qkv.stride(0),
        out.stride(0),
        tables.stride(0),
        layer.scale * _LOG2_E,
        max(1, _AT_ONCE // tiles),
        HEADS=sizes.heads,
        KV_HEADS=sizes.kv_heads,
        HEAD_SIZE=sizes.head_size,
        BLOCK=BLOCK_SIZE,
        **FORM,
    )
