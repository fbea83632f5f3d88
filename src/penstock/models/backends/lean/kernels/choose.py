# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Chooses tokens on the device, so that no logits are copied to the host."""

from __future__ import annotations

import triton
import triton.language as tl

WIDEST: tl.constexpr = tl.constexpr(0x7F800000)
"""The bits of infinity: an upper bound of all distances."""

ALL: tl.constexpr = tl.constexpr((1 << 31) - 1)
"""The value of top_p that keeps every token."""


@triton.jit
def _distances(logits_ptr, row, columns, peak, warmth, VOCAB: tl.constexpr):
    """Return how far tokens are below the best, over the temperature: as floats, and as their bits.

    They are not negative, so their bits, read as integers, have the same order.
    """
    logits = tl.load(logits_ptr + row * VOCAB + columns, mask=columns < VOCAB, other=float("-inf"))
    distance = tl.div_rn(peak - logits, warmth)
    return distance, tl.minimum(distance.to(tl.int32, bitcast=True), WIDEST)


@triton.jit
def _weights(distance):
    """Return weights as integers with 40 fractional bits: their sums are exact in any order."""
    return (tl.exp(-distance) * 1099511627776.0).to(tl.int64)


@triton.jit
def _share(whole, number):
    """Return a share, given in 31 bits, of an integer, in integer arithmetic."""
    return ((whole >> 29) * number >> 2) + ((whole & 536870911) * number >> 31)


@triton.jit
def _sum_within(
    logits_ptr,
    row,
    peak,
    warmth,
    bound,
    COUNTS: tl.constexpr,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Return the number of tokens within a distance, or their weight."""
    offsets = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.int64)
    for start in range(0, VOCAB, WIDTH):
        columns = start + offsets
        distance, bits = _distances(logits_ptr, row, columns, peak, warmth, VOCAB)
        within = (bits <= bound) & (columns < VOCAB)
        total += tl.where(within, 1 if COUNTS else _weights(distance), 0)
    return tl.sum(total, 0)


@triton.jit
def _least_bound(
    logits_ptr,
    row,
    peak,
    warmth,
    wanted,
    most,
    COUNTS: tl.constexpr,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Return the least distance, at most `most`, that contains so many tokens or so much weight."""
    low = tl.full((), 0, tl.int32)
    high = most
    while low < high:
        middle = low + (high - low) // 2
        found = _sum_within(logits_ptr, row, peak, warmth, middle, COUNTS, VOCAB, WIDTH)
        enough = found >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    return low


@triton.jit(do_not_specialize=["count"])
def choose_kernel(
    logits_ptr, draws_ptr, chosen_ptr, count, VOCAB: tl.constexpr, WIDTH: tl.constexpr
):
    """Choose one row's token: the first largest logit, or a draw by inverse CDF in token id order.

    `draws` is (5, count): the temperature, 0 for greedy; a uniform number of 31 bits; top_k, 0 for
    all; top_p, of 31 bits, the highest for all; and the largest distance below the best that min_p
    allows, over the temperature. Filters keep ties with the last token that they keep. If the largest
    logit is not finite, the token is -1.
    """
    row = tl.program_id(0).to(tl.int64)
    warmth = tl.load(draws_ptr + row).to(tl.float32, bitcast=True)
    offsets = tl.arange(0, WIDTH)
    peak = float("-inf")
    best = 0
    strange = 0
    for start in range(0, VOCAB, WIDTH):
        columns = start + offsets
        logits = tl.load(
            logits_ptr + row * VOCAB + columns, mask=columns < VOCAB, other=float("-inf")
        )
        strange += tl.sum((logits != logits).to(tl.int32), 0)
        highest = tl.max(logits, 0)
        where = tl.min(tl.where(logits == highest, columns, VOCAB), 0)
        best = tl.where(highest > peak, where, best)
        peak = tl.maximum(peak, highest)
    usable = (strange == 0) & (peak > float("-inf")) & (peak < float("inf"))
    token = tl.where(usable, best, -1)
    if usable & (warmth > 0):
        number = tl.load(draws_ptr + count + row).to(tl.int64)
        top_k = tl.load(draws_ptr + 2 * count + row)
        top_p = tl.load(draws_ptr + 3 * count + row)
        furthest = tl.load(draws_ptr + 4 * count + row)
        bound = tl.full((), 0x7F800000, tl.int32)
        if (top_k > 0) & (top_k < VOCAB):
            bound = _least_bound(
                logits_ptr, row, peak, warmth, top_k.to(tl.int64), bound, True, VOCAB, WIDTH
            )
        if top_p < ALL:
            whole = _sum_within(logits_ptr, row, peak, warmth, bound, False, VOCAB, WIDTH)
            wanted = _share(whole, top_p.to(tl.int64))
            bound = _least_bound(logits_ptr, row, peak, warmth, wanted, bound, False, VOCAB, WIDTH)
        bound = tl.minimum(bound, furthest)
        whole = _sum_within(logits_ptr, row, peak, warmth, bound, False, VOCAB, WIDTH)
        target = _share(whole, number)
        passed = 0
        before = tl.zeros((1,), tl.int64)
        for start in range(0, VOCAB, WIDTH):
            columns = start + offsets
            distance, bits = _distances(logits_ptr, row, columns, peak, warmth, VOCAB)
            weights = tl.where(bits <= bound, _weights(distance), 0)
            ends = before + tl.cumsum(weights, 0)
            passed += tl.sum(((ends <= target) & (columns < VOCAB)).to(tl.int32), 0)
            before += tl.sum(weights, 0)
        token = passed
    tl.store(chosen_ptr + row, token)
