# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""How the Triton kernels of attention are launched: for decoded tokens, and for chunks of prompts."""

from __future__ import annotations

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
    half = qkv.element_size() == 2  # noqa: PLR2004 - bytes
    queries = 128 if half and step.longest_chunk > 64 else 32  # noqa: PLR2004 - tokens
    tiles = triton.cdiv(step.longest_chunk, queries)
    prefill_kernels.prefill_kernel[(tiles, decoder.heads, len(step.chunks))](
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
        QUERIES=queries,
        TILE=64 if half else 32,
        PRECISION=precision(qkv),
        num_warps=8 if queries == 128 and decoder.head_size >= 128 else 4,  # noqa: PLR2004  as tried
        num_stages=2 if half else 1,
    )


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
