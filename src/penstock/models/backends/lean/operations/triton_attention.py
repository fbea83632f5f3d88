# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""How the Triton kernels of attention are launched: for decoded tokens, and for chunks of prompts."""

from __future__ import annotations

from functools import cache
from math import log2
from typing import TYPE_CHECKING, Any, Final

import torch
import triton

from penstock.models.backends.lean.kernels import decode as decode_kernels
from penstock.models.backends.lean.kernels import prefill as prefill_kernels
from penstock.models.backends.lean.operations import hopper_attention
from penstock.models.backends.lean.products.int4_products import precision
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import AttentionLayer
    from penstock.models.backends.lean.shape import Sizes

_LOG2_E: Final = log2(2.718281828459045)

_PROGRAMS: Final = 512
"""Programs that keep a GPU busy: with fewer sequences their keys are split."""

_MOST_SPLITS: Final = 32

_MUCH_SHARED: Final = 232_448
"""Bytes that a program can share from Hopper on, on GPUs for servers: a third stage fits."""

_LONG_CHUNK: Final = 2048
"""Tokens from which on a chunk's programs fill the GPU with 128 queries each."""


def decode(
    qkv: torch.Tensor,
    step: Step,
    layer: AttentionLayer,
    out: torch.Tensor,
    overlap: dict[str, Any],
) -> None:
    """Attend with the step's decoded tokens; writes their rows of `out`."""
    sizes, window, cache = layer.shape.sizes, layer.window, layer.cache
    count, group = step.decodes, sizes.heads // sizes.kv_heads
    splits = splits_for(count * sizes.kv_heads, window or layer.shape.context_length)
    partial, weight = out, out
    if splits > 1:
        parts = (count, sizes.heads, splits)
        partial = torch.empty((*parts, sizes.head_size), dtype=torch.float32, device=out.device)
        weight = torch.empty((*parts, 2), dtype=torch.float32, device=out.device)
    tables = step.tables_of(apart=layer.apart)
    tensors = (qkv, cache.keys, cache.values, step.decode_positions, step.rows, tables)
    strides = (qkv.stride(0), out.stride(0), tables.stride(0))
    results = (out, partial, weight, out if layer.sinks is None else layer.sinks)
    common = {
        "WINDOW": window,
        "CAPPED": layer.soft_cap > 0,
        "SINKS": layer.sinks is not None,
        "HEADS": sizes.heads,
        "HEAD_SIZE": sizes.head_size,
        "BLOCK": BLOCK_SIZE,
        "SPLITS": splits,
        **overlap,
    }
    grid = (count, sizes.kv_heads, splits)
    if group == 1:
        decode_kernels.decode_alone_kernel[grid](
            *tensors, *results, *strides, *_scales(layer), **common, **ALONE
        )
    else:
        decode_kernels.decode_kernel[grid](
            *tensors,
            *results,
            *strides,
            *_scales(layer),
            **common,
            KV_HEADS=sizes.kv_heads,
            GROUP=group,
            PADDED=max(16, triton.next_power_of_2(group)),
            PRECISION=precision(qkv),
            **(GROUPED if qkv.element_size() == 2 else GROUPED_WIDE),  # noqa: PLR2004 - bytes
        )
    if splits > 1:
        decode_kernels.combine_kernel[(count, sizes.heads)](
            partial,
            weight,
            out,
            out.stride(0),
            HEADS=sizes.heads,
            HEAD_SIZE=sizes.head_size,
            SPLITS=splits,
            num_warps=2,
            **overlap,
        )


def prefill(qkv: torch.Tensor, step: Step, layer: AttentionLayer, out: torch.Tensor) -> None:
    """Attend with the step's chunks of prompts; writes their rows of `out`."""
    if hopper_attention.can_attend(qkv, step, layer) and hopper_attention.works(
        qkv, layer, prefill_plain
    ):
        hopper_attention.prefill(qkv, step, layer, out)
    else:
        prefill_plain(qkv, step, layer, out)


def prefill_plain(qkv: torch.Tensor, step: Step, layer: AttentionLayer, out: torch.Tensor) -> None:
    """As `prefill`, on any device."""
    sizes, window, cache = layer.shape.sizes, layer.window, layer.cache
    assert step.chunks is not None  # noqa: S101 - the caller has looked
    form = _prefill_form(qkv, step.longest_chunk, sizes)
    tiles = triton.cdiv(step.longest_chunk, form["QUERIES"])
    tables = step.tables_of(apart=layer.apart)
    prefill_kernels.prefill_kernel[(sizes.heads, tiles, len(step.chunks))](
        qkv,
        cache.keys,
        cache.values,
        step.chunks,
        tables,
        out,
        out if layer.sinks is None else layer.sinks,
        qkv.stride(0),
        out.stride(0),
        tables.stride(0),
        *_scales(layer),
        WINDOW=window,
        CAPPED=layer.soft_cap > 0,
        SINKS=layer.sinks is not None,
        KV_HEADS=sizes.kv_heads,
        GROUP=sizes.heads // sizes.kv_heads,
        HEAD_SIZE=sizes.head_size,
        BLOCK=BLOCK_SIZE,
        PRECISION=precision(qkv),
        **form,
    )


def _prefill_form(qkv: torch.Tensor, longest_chunk: int, sizes: Sizes) -> dict[str, Any]:
    """How many queries a program has, and how it reads their keys."""
    if qkv.element_size() != 2:  # noqa: PLR2004 - bytes
        return CHUNKS_WIDE
    if longest_chunk <= 32:  # noqa: PLR2004 - tokens
        return CHUNKS_SHORT
    if sizes.head_size < 128:  # noqa: PLR2004 - as tried
        return CHUNKS_NARROW
    if _shared_bytes(qkv.device) < _MUCH_SHARED or sizes.head_size > 128:  # noqa: PLR2004 - likewise
        return CHUNKS
    return CHUNKS_LONG if longest_chunk >= _LONG_CHUNK else CHUNKS_MANY


@cache
def _shared_bytes(place: torch.device) -> int:
    """Memory that a program can share on a device, in bytes; 0 if torch does not report it."""
    if place.type != "cuda":
        return 0
    return getattr(torch.cuda.get_device_properties(place), "shared_memory_per_block_optin", 0)


def splits_for(programs: int, longest: int) -> int:
    """Into how many parts, a power of two, sequences' keys are cut to fill the device."""
    splits = 1
    while programs * splits * 2 <= _PROGRAMS and splits < min(_MOST_SPLITS, longest // 64):
        splits *= 2
    return splits


def _scales(layer: AttentionLayer) -> tuple[float, float]:
    """The factor of products of queries and keys, and that of a soft cap's tanh; scores to base 2."""
    if layer.soft_cap:
        return layer.scale / layer.soft_cap, layer.soft_cap * _LOG2_E
    return layer.scale * _LOG2_E, 0.0


# Found by trying on an H100; every one is right on any device.
ALONE: dict[str, Any] = {"TILE": 32, "num_warps": 2, "num_stages": 2}
GROUPED: dict[str, Any] = {"TILE": 32, "num_warps": 2, "num_stages": 2}
GROUPED_WIDE: dict[str, Any] = {"TILE": 32, "num_warps": 4, "num_stages": 2}
CHUNKS: dict[str, Any] = {"QUERIES": 128, "TILE": 64, "num_warps": 8, "num_stages": 2}
CHUNKS_NARROW: dict[str, Any] = {"QUERIES": 128, "TILE": 64, "num_warps": 4, "num_stages": 2}
CHUNKS_SHORT: dict[str, Any] = {"QUERIES": 32, "TILE": 64, "num_warps": 4, "num_stages": 2}
CHUNKS_WIDE: dict[str, Any] = {"QUERIES": 32, "TILE": 32, "num_warps": 4, "num_stages": 1}
# Found by trying on an H200.
CHUNKS_MANY: dict[str, Any] = {"QUERIES": 64, "TILE": 64, "num_warps": 4, "num_stages": 3}
CHUNKS_LONG: dict[str, Any] = {"QUERIES": 128, "TILE": 128, "num_warps": 8, "num_stages": 3}
