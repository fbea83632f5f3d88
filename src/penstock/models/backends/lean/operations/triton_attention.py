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
from penstock.models.backends.lean.products.int4_products import precision
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import AttentionLayer
    from penstock.models.backends.llama_family import Decoder

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
    decoder, window, cache = layer.shape.decoder, layer.window, layer.cache
    count, group = step.decodes, decoder.heads // decoder.kv_heads
    splits = splits_for(count * decoder.kv_heads, window or layer.shape.context_length)
    partial, weight = out, out
    if splits > 1:
        size = (count, decoder.heads, splits)
        partial = torch.empty((*size, decoder.head_size), dtype=torch.float32, device=out.device)
        weight = torch.empty((*size, 2), dtype=torch.float32, device=out.device)
    tensors = (qkv, cache.keys, cache.values, step.decode_positions, step.rows, step.tables)
    strides = (qkv.stride(0), out.stride(0), step.tables.stride(0))
    common = {
        "WINDOW": window,
        "HEADS": decoder.heads,
        "HEAD_SIZE": decoder.head_size,
        "BLOCK": BLOCK_SIZE,
        "SPLITS": splits,
        **overlap,
    }
    grid = (count, decoder.kv_heads, splits)
    if group == 1:
        decode_kernels.decode_alone_kernel[grid](
            *tensors, out, partial, weight, *strides, _scale(decoder), **common, **ALONE
        )
    else:
        decode_kernels.decode_kernel[grid](
            *tensors,
            out,
            partial,
            weight,
            *strides,
            _scale(decoder),
            **common,
            KV_HEADS=decoder.kv_heads,
            GROUP=group,
            PADDED=max(16, triton.next_power_of_2(group)),
            PRECISION=precision(qkv),
            **(GROUPED if qkv.element_size() == 2 else GROUPED_WIDE),  # noqa: PLR2004 - bytes
        )
    if splits > 1:
        decode_kernels.combine_kernel[(count, decoder.heads)](
            partial,
            weight,
            out,
            out.stride(0),
            HEADS=decoder.heads,
            HEAD_SIZE=decoder.head_size,
            SPLITS=splits,
            num_warps=2,
            **overlap,
        )


def prefill(qkv: torch.Tensor, step: Step, layer: AttentionLayer, out: torch.Tensor) -> None:
    """Attend with the step's chunks of prompts; writes their rows of `out`."""
    decoder, window, cache = layer.shape.decoder, layer.window, layer.cache
    assert step.chunks is not None  # noqa: S101 - the caller has looked
    form = _prefill_form(qkv, step.longest_chunk, decoder)
    tiles = triton.cdiv(step.longest_chunk, form["QUERIES"])
    prefill_kernels.prefill_kernel[(decoder.heads, tiles, len(step.chunks))](
        qkv,
        cache.keys,
        cache.values,
        step.chunks,
        step.tables,
        out,
        qkv.stride(0),
        out.stride(0),
        step.tables.stride(0),
        _scale(decoder),
        WINDOW=window,
        KV_HEADS=decoder.kv_heads,
        GROUP=decoder.heads // decoder.kv_heads,
        HEAD_SIZE=decoder.head_size,
        BLOCK=BLOCK_SIZE,
        PRECISION=precision(qkv),
        **form,
    )


def _prefill_form(qkv: torch.Tensor, longest_chunk: int, decoder: Decoder) -> dict[str, Any]:
    """How many queries a program has, and how it reads their keys."""
    if qkv.element_size() != 2:  # noqa: PLR2004 - bytes
        return CHUNKS_WIDE
    if longest_chunk <= 32:  # noqa: PLR2004 - tokens
        return CHUNKS_SHORT
    if decoder.head_size < 128:  # noqa: PLR2004 - as tried
        return CHUNKS_NARROW
    if _shared_bytes(qkv.device) < _MUCH_SHARED or decoder.head_size > 128:  # noqa: PLR2004 - likewise
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


def _scale(decoder: Decoder) -> float:
    return decoder.head_size**-0.5 * _LOG2_E


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
