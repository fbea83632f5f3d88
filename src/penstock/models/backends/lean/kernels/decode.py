# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Paged attention of one token a sequence: flash decoding, split along the keys.

Borrowed idea: Dao et al., Flash-Decoding (2023): parts of a long sequence are attended to by
different programs, and their results are put together by their log-sum-exps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.activations import tanh
from penstock.models.backends.lean.kernels.overlap import follow

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _part_of(length, split, WINDOW: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr):
    """The positions `begin .. end - 1` of a sequence that a split attends to."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    share = tl.cdiv(tl.cdiv(length - first, SPLITS), TILE) * TILE
    begin = first + split * share
    return begin, tl.minimum(begin + share, length)


@triton.jit
def _keep(
    out_ptr,
    partial_ptr,
    weight_ptr,
    out_stride,
    sequence,
    head,
    split,
    real,
    m_i,
    l_i,
    acc,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Store a program's part: maximum m_i and sum l_i (heads,), acc (heads, HEAD_SIZE)."""
    offsets = tl.arange(0, HEAD_SIZE)
    if SPLITS == 1:
        divided = acc / tl.where(l_i > 0, l_i, 1.0)[:, None]
        out_place = sequence * out_stride + head[:, None] * HEAD_SIZE + offsets[None, :]
        tl.store(out_ptr + out_place, divided.to(out_ptr.dtype.element_ty), mask=real[:, None])
    else:
        slot = (sequence * HEADS + head) * SPLITS + split
        place = slot[:, None] * HEAD_SIZE + offsets[None, :]
        tl.store(partial_ptr + place, acc, mask=real[:, None])
        tl.store(weight_ptr + slot * 2, m_i, mask=real)
        tl.store(weight_ptr + slot * 2 + 1, l_i, mask=real)


@triton.jit(do_not_specialize_on_alignment=["positions_ptr", "rows_ptr"])
def decode_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    positions_ptr,
    rows_ptr,
    tables_ptr,
    out_ptr,
    partial_ptr,
    weight_ptr,
    sinks_ptr,
    query_stride,
    out_stride,
    table_stride,
    scale_log2,
    cap_log2,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One part of one sequence's keys, for the GROUP query heads that share a KV head.

    Scores are kept in base 2; if CAPPED, `scale_log2` makes them what a tanh takes, and `cap_log2`
    times that is the score. A head's sink belongs to the first split. With one split `out` (sequences, heads * size) is written at once;
    else `partial` (sequences, heads, splits, size) float32, sums not yet divided, and `weight`
    (sequences, heads, splits, 2) float32, their maxima and weights. PADDED is GROUP brought up to
    the matrix units' size.
    """
    sequence = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(positions_ptr + sequence) + 1
    row = tl.load(rows_ptr + sequence).to(tl.int64)
    begin, end = _part_of(length, split, WINDOW, SPLITS, TILE)
    follow(OVERLAPS)
    group = tl.arange(0, PADDED)
    offsets = tl.arange(0, HEAD_SIZE)
    head = kv_head * GROUP + group
    real = group < GROUP
    query_place = sequence * query_stride + head[:, None] * HEAD_SIZE + offsets[None, :]
    query = tl.load(query_ptr + query_place, mask=real[:, None], other=0.0)
    m_i = tl.full((PADDED,), float("-inf"), tl.float32)
    l_i = tl.zeros((PADDED,), tl.float32)
    if SINKS:
        sink = tl.load(sinks_ptr + head, mask=real, other=0.0) * LOG2_E
        m_i = tl.where(split == 0, sink, m_i)
        l_i = tl.where(split == 0, 1.0, l_i)
    acc = tl.zeros((PADDED, HEAD_SIZE), tl.float32)
    tile = tl.arange(0, TILE)
    for start in range(begin, end, TILE):
        position = start + tile
        seen = position < end
        block = tl.load(tables_ptr + row * table_stride + position // BLOCK, mask=seen, other=0)
        place = (block.to(tl.int64) * KV_HEADS + kv_head) * BLOCK + position % BLOCK
        where = place[:, None] * HEAD_SIZE + offsets[None, :]
        keys = tl.load(keys_ptr + where, mask=seen[:, None], other=0.0)
        values = tl.load(values_ptr + where, mask=seen[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scale_log2
        if CAPPED:
            scores = tanh(scores) * cap_log2
        scores = tl.where(seen[None, :], scores, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(scores, 1))
        alpha = tl.exp2(m_i - m_new)
        weights = tl.exp2(scores - m_new[:, None])
        l_i = l_i * alpha + tl.sum(weights, 1)
        acc = acc * alpha[:, None]
        acc += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        m_i = m_new
    _keep(
        out_ptr,
        partial_ptr,
        weight_ptr,
        out_stride,
        sequence,
        head,
        split,
        real,
        m_i,
        l_i,
        acc,
        HEADS,
        HEAD_SIZE,
        SPLITS,
    )


@triton.jit(do_not_specialize_on_alignment=["positions_ptr", "rows_ptr"])
def decode_alone_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    positions_ptr,
    rows_ptr,
    tables_ptr,
    out_ptr,
    partial_ptr,
    weight_ptr,
    sinks_ptr,
    query_stride,
    out_stride,
    table_stride,
    scale_log2,
    cap_log2,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """As `decode_kernel` where every query head has a KV head of its own: no matrix to multiply.

    Each of the TILE lanes keeps a softmax of its own over every TILE-th key, so that nothing waits
    for the others within the loop; they are put together after it.
    """
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(positions_ptr + sequence) + 1
    row = tl.load(rows_ptr + sequence).to(tl.int64)
    begin, end = _part_of(length, split, WINDOW, SPLITS, TILE)
    follow(OVERLAPS)
    offsets = tl.arange(0, HEAD_SIZE)
    query_place = sequence * query_stride + head * HEAD_SIZE + offsets
    query = tl.load(query_ptr + query_place).to(tl.float32) * scale_log2
    m_i = tl.full((TILE,), float("-inf"), tl.float32)
    l_i = tl.zeros((TILE,), tl.float32)
    acc = tl.zeros((TILE, HEAD_SIZE), tl.float32)
    tile = tl.arange(0, TILE)
    if SINKS:
        has_sink = (tile == 0) & (split == 0)
        m_i = tl.where(has_sink, tl.load(sinks_ptr + head) * LOG2_E, m_i)
        l_i = tl.where(has_sink, 1.0, l_i)
    for start in range(begin, end, TILE):
        position = start + tile
        seen = position < end
        block = tl.load(tables_ptr + row * table_stride + position // BLOCK, mask=seen, other=0)
        place = (block.to(tl.int64) * HEADS + head) * BLOCK + position % BLOCK
        where = place[:, None] * HEAD_SIZE + offsets[None, :]
        keys = tl.load(keys_ptr + where, mask=seen[:, None], other=0.0).to(tl.float32)
        values = tl.load(values_ptr + where, mask=seen[:, None], other=0.0).to(tl.float32)
        scores = tl.sum(query[None, :] * keys, 1)
        if CAPPED:
            scores = tanh(scores) * cap_log2
        scores = tl.where(seen, scores, float("-inf"))
        m_new = tl.maximum(m_i, scores)
        base = tl.where(m_new > float("-inf"), m_new, 0.0)
        alpha = tl.exp2(m_i - base)
        weights = tl.exp2(scores - base)
        l_i = l_i * alpha + weights
        acc = acc * alpha[:, None] + weights[:, None] * values
        m_i = m_new
    highest = tl.max(m_i, 0)
    base = tl.where(highest > float("-inf"), highest, 0.0)
    shares = tl.exp2(m_i - base)
    whole = tl.sum(l_i * shares, 0)
    together = tl.sum(acc * shares[:, None], 0)
    one = tl.zeros((1,), tl.int32)
    _keep(
        out_ptr,
        partial_ptr,
        weight_ptr,
        out_stride,
        sequence,
        head + one,
        split,
        one == 0,
        highest + tl.zeros((1,), tl.float32),
        whole + tl.zeros((1,), tl.float32),
        together[None, :],
        HEADS,
        HEAD_SIZE,
        SPLITS,
    )


@triton.jit
def combine_kernel(
    partial_ptr,
    weight_ptr,
    out_ptr,
    out_stride,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Put the splits of one sequence's head together."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    splits = tl.arange(0, SPLITS)
    offsets = tl.arange(0, HEAD_SIZE)
    slot = (sequence * HEADS + head) * SPLITS + splits
    follow(OVERLAPS)
    peaks = tl.load(weight_ptr + slot * 2)
    totals = tl.load(weight_ptr + slot * 2 + 1)
    m_i = tl.max(peaks, 0)
    shares = tl.where(totals > 0, tl.exp2(peaks - m_i), 0.0)
    acc = tl.load(partial_ptr + slot[:, None] * HEAD_SIZE + offsets[None, :])
    l_i = tl.sum(shares * totals, 0)
    out = tl.sum(acc * shares[:, None], 0) / tl.where(l_i > 0, l_i, 1.0)
    out_place = sequence * out_stride + head * HEAD_SIZE + offsets
    tl.store(out_ptr + out_place, out.to(out_ptr.dtype.element_ty))
