# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Rotary embedding of queries and keys, norms of their heads, and the write into the KV cache."""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow


@triton.jit(do_not_specialize=["count"])
def place_kernel(
    fields_ptr,
    chosen_ptr,
    tables_ptr,
    embeddings_ptr,
    out_ptr,
    count,
    table_stride,
    BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Start a step: look up a token's embedding, and write its block into its row of the tables.

    `fields` is (5, count): token id, position, row of the tables, block, and the row of `chosen`
    that has the token id instead, or -1. A position below 0 is padding: its embedding is zero, and
    nothing is written. A token that could not be chosen (-1) counts as 0.
    """
    follow(OVERLAPS)
    token = tl.program_id(0)
    position = tl.load(fields_ptr + count + token)
    row = tl.load(fields_ptr + 2 * count + token).to(tl.int64)
    real = position >= 0
    block = tl.load(fields_ptr + 3 * count + token)
    tl.store(tables_ptr + row * table_stride + position // BLOCK, block, mask=real)
    source = tl.load(fields_ptr + 4 * count + token)
    known = tl.load(fields_ptr + token)
    drawn = tl.load(chosen_ptr + source, mask=source >= 0, other=0)
    token_id = tl.maximum(tl.where(source >= 0, drawn, known), 0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    embedding = tl.load(embeddings_ptr + token_id * SIZE + columns, mask=inside & real, other=0.0)
    tl.store(out_ptr + token.to(tl.int64) * SIZE + columns, embedding, mask=inside)


@triton.jit
def _normed(first, second, weight_ptr, first_at, second_at, epsilon, HALF: tl.constexpr):
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    scale = 1.0 / tl.sqrt(squares / (2 * HALF) + epsilon)
    low = tl.load(weight_ptr + first_at).to(tl.float32)
    high = tl.load(weight_ptr + second_at).to(tl.float32)
    return first * scale[:, None] * low[None, :], second * scale[:, None] * high[None, :]


@triton.jit(do_not_specialize_on_alignment=["positions_ptr", "rows_ptr"])
def rotate_kernel(
    qkv_ptr,
    cosines_ptr,
    sines_ptr,
    positions_ptr,
    rows_ptr,
    tables_ptr,
    keys_ptr,
    values_ptr,
    query_norm_ptr,
    key_norm_ptr,
    growth_ptr,
    qkv_stride,
    table_stride,
    epsilon,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    TURNED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMS: tl.constexpr,
    GROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Rotate a few heads of one token: queries in place; keys and values go into the cache.

    qkv is (tokens, heads + 2 kv_heads, 2 HALF); a layer's keys (blocks, kv_heads, BLOCK, 2 HALF).
    Of the HALF pairs of a head's elements TURNED are rotated: neighbours if INTERLEAVED, else those
    TURNED apart. The others' sines are 0.
    """
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions_ptr + token)
    row = tl.load(rows_ptr + token).to(tl.int64)
    offsets = tl.arange(0, HALF)
    real = position >= 0
    angle = position.to(tl.int64) * HALF + offsets
    cosine = tl.load(cosines_ptr + angle, mask=real, other=0.0)[None, :]
    sine = tl.load(sines_ptr + angle, mask=real, other=0.0)[None, :]
    block_at = tables_ptr + row * table_stride + position // BLOCK
    block = tl.load(block_at, mask=real, other=0).to(tl.int64)
    if INTERLEAVED:
        first_at = 2 * offsets
        second_at = first_at + 1
    elif TURNED == HALF:
        first_at = offsets
        second_at = HALF + offsets
    else:
        first_at = tl.where(offsets < TURNED, offsets, TURNED + offsets)
        second_at = first_at + tl.where(offsets < TURNED, TURNED, HALF - TURNED)
    follow(OVERLAPS)
    if real:
        head = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)
        is_query = head < HEADS
        is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
        is_value = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
        start = qkv_ptr + token * qkv_stride + head[:, None] * (2 * HALF)
        low = start + first_at[None, :]
        high = start + second_at[None, :]
        some = (head < HEADS + 2 * KV_HEADS)[:, None]
        raw_first = tl.load(low, mask=some, other=0.0)
        raw_second = tl.load(high, mask=some, other=0.0)
        first = raw_first.to(tl.float32)
        second = raw_second.to(tl.float32)
        if NORMS:
            of_query = _normed(first, second, query_norm_ptr, first_at, second_at, epsilon, HALF)
            of_key = _normed(first, second, key_norm_ptr, first_at, second_at, epsilon, HALF)
            first = tl.where(is_query[:, None], of_query[0], of_key[0])
            second = tl.where(is_query[:, None], of_query[1], of_key[1])
        kind = qkv_ptr.dtype.element_ty
        turned_first = (first * cosine - second * sine).to(kind)
        turned_second = (second * cosine + first * sine).to(kind)
        if GROWS:
            growth = tl.load(growth_ptr + position)
            tl.store(low, (turned_first * growth).to(kind), mask=is_query[:, None])
            tl.store(high, (turned_second * growth).to(kind), mask=is_query[:, None])
        else:
            tl.store(low, turned_first, mask=is_query[:, None])
            tl.store(high, turned_second, mask=is_query[:, None])
        within = position % BLOCK
        key_head = head - HEADS
        key_place = ((block * KV_HEADS + key_head) * BLOCK + within) * (2 * HALF)
        keys = keys_ptr + key_place[:, None]
        tl.store(keys + first_at[None, :], turned_first, mask=is_key[:, None])
        tl.store(keys + second_at[None, :], turned_second, mask=is_key[:, None])
        value_head = key_head - KV_HEADS
        value_place = ((block * KV_HEADS + value_head) * BLOCK + within) * (2 * HALF)
        values = values_ptr + value_place[:, None]
        tl.store(values + first_at[None, :], raw_first, mask=is_value[:, None])
        tl.store(values + second_at[None, :], raw_second, mask=is_value[:, None])
