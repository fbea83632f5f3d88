# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""The ranks' sum and the following norm in one kernel, through memory that all ranks can write.

Every rank has inboxes with a place for each rank and row. A program sends its row to the other
ranks, waits until theirs have arrived, and adds them up. Two inboxes are used in turn: a rank that
is here has read what it was sent the time before, but not what it is sent now.

With few rows, each word carries a mark that it has arrived: twice the bytes, but the sender need
not wait for a row to arrive before announcing it. With many rows, each row has a flag.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow

MARK: tl.constexpr = tl.constexpr(1 << 32)
"""The mark above the 32 bits of a word that has arrived; an empty place is 0."""


@triton.jit
def _numbers_of(word, kind: tl.constexpr):
    """The two numbers of 16 bits in words of 32, as float32; of words that are float32, and zeros."""
    if kind == tl.float32:
        low = word.to(tl.float32, bitcast=True)
        high = tl.zeros_like(low)
    else:
        low = word.to(tl.int16).to(kind, bitcast=True).to(tl.float32)
        high = (word >> 16).to(tl.int16).to(kind, bitcast=True).to(tl.float32)
    return low, high


@triton.jit
def _word_of(low, high, kind: tl.constexpr):
    """The words whose numbers, of `kind`, these are."""
    if kind == tl.float32:
        word = low.to(tl.int32, bitcast=True)
    else:
        word = low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        word |= high.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return word


@triton.jit
def exchange_norm_few_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    inboxes_ptr,
    x_stride,
    epsilon,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One row a program: add the sum of all ranks' x to the residual stream, and norm it.

    `inboxes` (RANKS,) int64 are the addresses of the ranks' inboxes, each (RANKS, ROWS, SIZE) of
    int32 and as many marks, 0 before and after; half as long for types of 16 bits. The sum is taken
    in the order of the ranks, so that all ranks have the same.
    """
    row = tl.program_id(0).to(tl.int64)
    kind = x_ptr.dtype.element_ty
    together: tl.constexpr = 32 // kind.primitive_bitwidth
    words: tl.constexpr = SIZE // together
    word = tl.arange(0, WIDTH // together)
    inside = word < words
    weight = tl.load(weight_ptr.to(tl.pointer_type(tl.int32)) + word, mask=inside, other=0)
    follow(OVERLAPS)
    x_at = x_ptr.to(tl.pointer_type(tl.int32)) + row * (x_stride // together)
    x = tl.load(x_at + word, mask=inside, other=0)
    marked = (x.to(tl.int64) & 0xFFFFFFFF) | MARK
    for other in tl.static_range(RANKS):
        if other != RANK:
            inbox = tl.load(inboxes_ptr + other).to(tl.pointer_type(tl.int64))
            tl.store(inbox + (RANK * ROWS + row) * words + word, marked, mask=inside)
    residual = residual_ptr.to(tl.pointer_type(tl.int32)) + row * words + word
    residual_low, residual_high = _numbers_of(tl.load(residual, mask=inside, other=0), kind)
    own_inbox = tl.load(inboxes_ptr + RANK).to(tl.pointer_type(tl.int64))
    low = tl.zeros((WIDTH // together,), tl.float32)
    high = tl.zeros((WIDTH // together,), tl.float32)
    for other in tl.static_range(RANKS):
        if other == RANK:
            x_low, x_high = _numbers_of(x, kind)
        else:
            place = own_inbox + (other * ROWS + row) * words + word
            come = tl.load(place, mask=inside, other=MARK, volatile=True)
            while tl.min(come, 0) < MARK:
                come = tl.load(place, mask=inside, other=MARK, volatile=True)
            tl.store(place, tl.zeros_like(come), mask=inside)
            x_low, x_high = _numbers_of(come.to(tl.int32), kind)
        low += x_low
        high += x_high
    low = (low + residual_low).to(kind)  # the stream is stored, and normed, in the model's type
    high = (high + residual_high).to(kind)
    tl.store(residual, _word_of(low, high, kind), mask=inside)
    low, high = low.to(tl.float32), high.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(low * low + high * high, 0) / SIZE + epsilon)
    weight_low, weight_high = _numbers_of(weight, kind)
    low = ((low * scale).to(kind).to(tl.float32) * weight_low).to(kind)
    high = ((high * scale).to(kind).to(tl.float32) * weight_high).to(kind)
    out = out_ptr.to(tl.pointer_type(tl.int32)) + row * words + word
    tl.store(out, _word_of(low, high, kind), mask=inside)


@triton.jit
def exchange_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    inboxes_ptr,
    flags_ptr,
    x_stride,
    epsilon,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """The same for many rows.

    `inboxes` and `flags` (RANKS,) int64 are the addresses of the ranks' inboxes, each (RANKS, ROWS,
    SIZE) in x's type, and of their flags, (RANKS, ROWS) int32, 0 before and after.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    kind = x_ptr.dtype.element_ty
    follow(OVERLAPS)
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0)
    for other in tl.static_range(RANKS):
        if other != RANK:
            inbox = tl.load(inboxes_ptr + other).to(tl.pointer_type(kind))
            tl.store(inbox + (RANK * ROWS + row) * SIZE + columns, x, mask=inside)
    tl.debug_barrier()  # all of the row is sent before its flag is raised
    for other in tl.static_range(RANKS):
        if other != RANK:
            flags = tl.load(flags_ptr + other).to(tl.pointer_type(tl.int32))
            tl.atomic_xchg(flags + RANK * ROWS + row, 1, sem="release", scope="sys")
    own_inbox = tl.load(inboxes_ptr + RANK).to(tl.pointer_type(kind))
    own_flags = tl.load(flags_ptr + RANK).to(tl.pointer_type(tl.int32))
    for other in tl.static_range(RANKS):
        if other != RANK:
            flag = own_flags + other * ROWS + row
            while tl.atomic_cas(flag, 1, 0, sem="acquire", scope="sys") != 1:
                pass
    tl.debug_barrier()
    summed = tl.zeros((WIDTH,), tl.float32)
    for other in tl.static_range(RANKS):
        if other == RANK:
            summed += x.to(tl.float32)
        else:
            place = own_inbox + (other * ROWS + row) * SIZE + columns
            summed += tl.load(place, mask=inside, other=0.0, volatile=True).to(tl.float32)
    residual = residual_ptr + row * SIZE + columns
    summed += tl.load(residual, mask=inside, other=0.0).to(tl.float32)
    kept = summed.to(kind)  # the stream is kept, and normed, in the model's type
    tl.store(residual, kept, mask=inside)
    stream = kept.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(stream * stream, 0) / SIZE + epsilon)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    normed = (stream * scale).to(kind).to(tl.float32)
    tl.store(out_ptr + row * SIZE + columns, (normed * weight).to(kind), mask=inside)
