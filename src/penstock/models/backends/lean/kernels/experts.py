# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Products of each expert with the tokens that chose it.

Pairs of a token and an expert (see `kernels.routing`) are sorted by expert; an expert's products take
some at a time, and read its weights for all of these once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.activations import CLAMPED, activated
from penstock.models.backends.lean.kernels.overlap import follow
from penstock.models.backends.lean.kernels.tiles import tile_product


@triton.jit
def _tile(
    experts_ptr, bounds_ptr, EXPERTS: tl.constexpr, PAIRS: tl.constexpr, BY_PAIR: tl.constexpr
):
    """A program's expert, and its places `first .. end - 1`; none if first is end.

    BY_PAIR: the grid's second axis is the pairs' places, of which the first of every tile has work.
    Otherwise the second is the experts, the third their tiles.
    """
    if BY_PAIR:
        first = tl.program_id(1)
        expert = tl.load(experts_ptr + first)
        begin = tl.load(bounds_ptr + 2 * expert)
        end = tl.load(bounds_ptr + 2 * expert + 1)
        idle = (expert >= EXPERTS) | ((first - begin) % PAIRS != 0)
        end = tl.where(idle, first, end)
    else:
        expert = tl.program_id(1)
        begin = tl.load(bounds_ptr + 2 * expert)
        end = tl.load(bounds_ptr + 2 * expert + 1)
        first = tl.minimum(begin + tl.program_id(2) * PAIRS, end)
    return expert, first, end


@triton.jit
def _gate(gate, up, ACTIVATION: tl.constexpr, alpha, limit, kind: tl.constexpr):
    if ACTIVATION == CLAMPED:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
        return (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
    return activated(gate, ACTIVATION).to(kind).to(tl.float32) * up


@triton.jit
def expert_gate_up_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    pairs_ptr,
    experts_ptr,
    bounds_ptr,
    out_ptr,
    weight_stride,
    alpha,
    limit,
    EXPERTS: tl.constexpr,
    CHOSEN: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIZE: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BY_PAIR: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ZEROED: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (places, SIZE): the gated products of an expert with its tokens' rows x (tokens, COLUMNS).

    The expert's matrix has 2 SIZE rows: gates then ups, or both in turns if INTERLEAVED; a tile has
    some of both likewise. For FORM see `kernels.unpacking`; GROUPS are a row's.
    """
    follow(OVERLAPS)
    expert, first, end = _tile(experts_ptr, bounds_ptr, EXPERTS, PAIRS, BY_PAIR)
    if first < end:
        place = first + tl.arange(0, PAIRS)
        real = place < end
        pair = tl.load(pairs_ptr + place, mask=real, other=0)
        kind = x_ptr.dtype.element_ty
        own = tl.program_id(0) * BLOCK_ROWS
        lane = tl.arange(0, 2 * BLOCK_ROWS)
        unit = lane // 2 if INTERLEAVED else lane % BLOCK_ROWS
        row = 2 * own + lane if INTERLEAVED else own + unit + lane // BLOCK_ROWS * SIZE
        # If all blocks are whole, no lane needs a comparison of its own.
        inside = own + (unit if SIZE % BLOCK_ROWS else lane * 0) < SIZE
        group = (expert.to(tl.int64) * (2 * SIZE) + row) * GROUPS
        both = tile_product(
            x_ptr + (pair // CHOSEN).to(tl.int64) * COLUMNS,
            weight_ptr + expert.to(tl.int64) * weight_stride + row * ROW_STRIDE,
            scales_ptr + group,
            zeros_ptr + group,
            real,
            inside,
            COLUMNS,
            COLUMN_STRIDE,
            PAIRS,
            2 * BLOCK_ROWS,
            BLOCK_COLUMNS,
            FORM,
            GROUP,
            ZEROED,
            PRECISION,
            OVERLAPS,
        )
        if BIASED:
            bias = tl.load(bias_ptr + expert * 2 * SIZE + row, mask=inside, other=0.0)
            both += bias.to(tl.float32)[None, :]
        if INTERLEAVED:
            gate, up = tl.split(tl.reshape(both, (PAIRS, BLOCK_ROWS, 2)))
        else:
            gate, up = tl.split(tl.permute(tl.reshape(both, (PAIRS, 2, BLOCK_ROWS)), (0, 2, 1)))
        out_row = own + tl.arange(0, BLOCK_ROWS)
        gated = _gate(gate, up, ACTIVATION, alpha, limit, kind).to(kind)
        out_at = out_ptr + place.to(tl.int64)[:, None] * SIZE + out_row[None, :]
        tl.store(out_at, gated, mask=real[:, None] & (out_row < SIZE)[None, :])


@triton.jit
def expert_down_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    shares_ptr,
    pairs_ptr,
    experts_ptr,
    bounds_ptr,
    out_ptr,
    weight_stride,
    EXPERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BY_PAIR: tl.constexpr,
    BIASED: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ZEROED: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (pairs, ROWS): an expert's products with x (places, COLUMNS), times each pair's share."""
    follow(OVERLAPS)
    expert, first, end = _tile(experts_ptr, bounds_ptr, EXPERTS, PAIRS, BY_PAIR)
    if first < end:
        place = first + tl.arange(0, PAIRS)
        real = place < end
        row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = row < ROWS
        group = (expert.to(tl.int64) * ROWS + row) * GROUPS
        out = tile_product(
            x_ptr + place.to(tl.int64) * COLUMNS,
            weight_ptr + expert.to(tl.int64) * weight_stride + row * ROW_STRIDE,
            scales_ptr + group,
            zeros_ptr + group,
            real,
            inside,
            COLUMNS,
            COLUMN_STRIDE,
            PAIRS,
            BLOCK_ROWS,
            BLOCK_COLUMNS,
            FORM,
            GROUP,
            ZEROED,
            PRECISION,
            OVERLAPS,
        )
        if BIASED:
            bias = tl.load(bias_ptr + expert * ROWS + row, mask=inside, other=0.0)
            out += bias.to(tl.float32)[None, :]
        pair = tl.load(pairs_ptr + place, mask=real, other=0)
        share = tl.load(shares_ptr + pair, mask=real, other=0.0)
        out_at = out_ptr + pair.to(tl.int64)[:, None] * ROWS + row[None, :]
        shared = (out * share[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_at, shared, mask=real[:, None] & inside[None, :])


@triton.jit
def sum_experts_kernel(
    x_ptr,
    chosen_ptr,
    beside_ptr,
    out_ptr,
    EXPERTS: tl.constexpr,
    CHOSEN: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    BESIDE: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (tokens, SIZE): the sum of a token's pairs x (pairs, SIZE), and of its row of `beside`."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < SIZE
    follow(OVERLAPS)
    summed = tl.zeros((WIDTH,), tl.float32)
    if BESIDE:
        summed += tl.load(beside_ptr + token * SIZE + columns, mask=inside, other=0.0).to(
            tl.float32
        )
    for slot in tl.static_range(CHOSEN):
        pair = token * CHOSEN + slot
        computed = tl.load(chosen_ptr + pair) < EXPERTS
        x = tl.load(x_ptr + pair * SIZE + columns, mask=inside & computed, other=0.0)
        summed += x.to(tl.float32)
    tl.store(out_ptr + token * SIZE + columns, summed.to(out_ptr.dtype.element_ty), mask=inside)
