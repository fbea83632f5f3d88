# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Choosing tokens on the device, so that nothing of the logits crosses to the host."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weights(logits_ptr, row, columns, peak, warmth, VOCAB: tl.constexpr):
    """Weights as whole numbers, of 40 bits after the point: their sums are exact in any order."""
    logits = tl.load(logits_ptr + row * VOCAB + columns, mask=columns < VOCAB, other=float("-inf"))
    return (tl.exp((logits - peak) / warmth) * 1099511627776.0).to(tl.int64)


@triton.jit
def choose_kernel(
    logits_ptr, warmths_ptr, numbers_ptr, chosen_ptr, VOCAB: tl.constexpr, WIDTH: tl.constexpr
):
    """One row's token: the first largest logit, or a draw by inverse CDF in the order of token ids.

    A warmth (temperature) of 0 is greedy; numbers are uniform, of 31 bits. Where the largest logit
    is not a number that is finite, the token is -1.
    """
    row = tl.program_id(0).to(tl.int64)
    warmth = tl.load(warmths_ptr + row)
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
        total = tl.zeros((WIDTH,), tl.int64)
        for start in range(0, VOCAB, WIDTH):
            total += _weights(logits_ptr, row, start + offsets, peak, warmth, VOCAB)
        whole = tl.sum(total, 0)
        number = tl.load(numbers_ptr + row).to(tl.int64)
        target = ((whole >> 29) * number >> 2) + ((whole & 536870911) * number >> 31)
        passed = 0
        before = tl.zeros((1,), tl.int64)
        for start in range(0, VOCAB, WIDTH):
            columns = start + offsets
            weights = _weights(logits_ptr, row, columns, peak, warmth, VOCAB)
            ends = before + tl.cumsum(weights, 0)
            passed += tl.sum(((ends <= target) & (columns < VOCAB)).to(tl.int32), 0)
            before += tl.sum(weights, 0)
        token = passed
    tl.store(chosen_ptr + row, token)
