# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""The ranks' sum and the norm after it in one kernel, through memory that each rank can write.

Every rank has an inbox with a place a rank and row, and a flag beside each place. A program sends
its row to the other ranks, raises their flags, waits for its own, and sums up what has come.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
):
    """One row a program: the residual stream takes up the sum of all ranks' x, and is normed.

    `inboxes` and `flags` (RANKS,) int64 are the addresses of the ranks' inboxes, each (RANKS, ROWS,
    SIZE) in x's type, and of their flags, (RANKS, ROWS) int32, 0 before and after. The sum is taken
    in the order of the ranks, so that all have the same. Two such inboxes must be used in turn: a
    rank that is here has read what it was sent the time before, and not what it is sent now.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    kind = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0)
    for other in tl.static_range(RANKS):
        if other != RANK:
            inbox = tl.load(inboxes_ptr + other).to(tl.pointer_type(kind))
            tl.store(inbox + (RANK * ROWS + row) * SIZE + columns, x, mask=inside)
    tl.debug_barrier()  # the row is sent as a whole before its flag is raised
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
