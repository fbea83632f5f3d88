# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Paged flash attention of prompt chunks: several tokens of each of some sequences.

The order of the loops is FlashAttention-2's (Dao, 2023): a program keeps some queries, and reads
keys and values tile by tile. Tiles that all of its queries see need no mask.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.activations import tanh
from penstock.models.backends.lean.kernels.decode import LOG2_E


@triton.jit
def _attend(
    m_i,
    l_i,
    acc,
    query,
    position,
    keys_ptr,
    values_ptr,
    table_ptr,
    kv_head,
    begin,
    end,
    scale_log2,
    cap_log2,
    MASKED: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to the keys at positions `begin .. end - 1`, `begin` a multiple of TILE.

    Without MASKED every query sees all of them, and `end` is a multiple of TILE too. CAPPED: see
    `kernels.decode`.
    """
    offsets = tl.arange(0, HEAD_SIZE)
    tile = tl.arange(0, TILE)
    for start in range(begin, end, TILE):
        key_position = start + tile
        if MASKED:
            inside = key_position < end
            block = tl.load(table_ptr + key_position // BLOCK, mask=inside, other=0)
        else:
            block = tl.load(table_ptr + key_position // BLOCK)
        place = (block.to(tl.int64) * KV_HEADS + kv_head) * BLOCK + key_position % BLOCK
        where = place[:, None] * HEAD_SIZE + offsets[None, :]
        if MASKED:
            keys = tl.load(keys_ptr + where, mask=inside[:, None], other=0.0)
        else:
            keys = tl.load(keys_ptr + where)
        scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
        if CAPPED:
            scores = tanh(scores * scale_log2) * (cap_log2 / scale_log2)
        if MASKED:
            seen = key_position[None, :] <= position[:, None]
            if WINDOW > 0:
                seen &= key_position[None, :] > position[:, None] - WINDOW
            scores = tl.where(seen, scores, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(scores, 1) * scale_log2)
        base = m_new
        if WINDOW > 0:  # a tile that a query does not see at all may be its first
            base = tl.where(m_new > float("-inf"), m_new, 0.0)
        alpha = tl.exp2(m_i - base)
        weights = tl.exp2(scores * scale_log2 - base[:, None])
        l_i = l_i * alpha + tl.sum(weights, 1)
        acc = acc * alpha[:, None]
        if MASKED:
            values = tl.load(values_ptr + where, mask=inside[:, None], other=0.0)
        else:
            values = tl.load(values_ptr + where)
        acc = tl.dot(weights.to(values.dtype), values, acc, input_precision=PRECISION)
        m_i = m_new
    return m_i, l_i, acc


@triton.jit(do_not_specialize_on_alignment=["chunks_ptr"])
def prefill_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    chunks_ptr,
    tables_ptr,
    out_ptr,
    sinks_ptr,
    query_stride,
    out_stride,
    table_stride,
    scale_log2,
    cap_log2,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """QUERIES tokens of one chunk, one head. The grid is (heads, tiles of queries, chunks).

    chunks is (chunks, 4) int32: the chunk's first row in the step, its tokens, the position of its
    first, its row of the tables. Its keys and values are in the cache already.
    """
    chunk = tl.program_id(2)
    count = tl.load(chunks_ptr + chunk * 4 + 1)
    # Of all heads, the tiles with the most keys start first.
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * QUERIES
    if first < count:
        head = tl.program_id(0)
        kv_head = head // GROUP
        begin_row = tl.load(chunks_ptr + chunk * 4)
        begin = tl.load(chunks_ptr + chunk * 4 + 2)
        table_ptr = tables_ptr + tl.load(chunks_ptr + chunk * 4 + 3).to(tl.int64) * table_stride
        index = first + tl.arange(0, QUERIES)
        real = index < count
        position = begin + index
        offsets = tl.arange(0, HEAD_SIZE)
        token = (begin_row + index).to(tl.int64)
        query_place = token[:, None] * query_stride + head * HEAD_SIZE + offsets[None, :]
        query = tl.load(query_ptr + query_place, mask=real[:, None], other=0.0)
        m_i = tl.full((QUERIES,), float("-inf"), tl.float32)
        l_i = tl.zeros((QUERIES,), tl.float32)
        if SINKS:
            m_i = tl.zeros((QUERIES,), tl.float32) + tl.load(sinks_ptr + head) * LOG2_E
            l_i = tl.full((QUERIES,), 1.0, tl.float32)
        acc = tl.zeros((QUERIES, HEAD_SIZE), tl.float32)
        end = begin + tl.minimum(first + QUERIES, count)
        if WINDOW > 0:
            masked_from = tl.maximum(begin + first - WINDOW + 1, 0) // TILE * TILE
        else:
            masked_from = (begin + first + 1) // TILE * TILE
        # First the tiles that all queries see, which a window has none of, then the others.
        for masked in tl.static_range(1 if WINDOW > 0 else 0, 2):
            m_i, l_i, acc = _attend(
                m_i,
                l_i,
                acc,
                query,
                position,
                keys_ptr,
                values_ptr,
                table_ptr,
                kv_head,
                masked_from if masked else 0,
                end if masked else masked_from,
                scale_log2,
                cap_log2,
                masked,
                WINDOW,
                CAPPED,
                KV_HEADS,
                HEAD_SIZE,
                BLOCK,
                TILE,
                PRECISION,
            )
        out = acc / tl.where(l_i > 0, l_i, 1.0)[:, None]
        out_place = token[:, None] * out_stride + head * HEAD_SIZE + offsets[None, :]
        tl.store(out_ptr + out_place, out.to(out_ptr.dtype.element_ty), mask=real[:, None])
