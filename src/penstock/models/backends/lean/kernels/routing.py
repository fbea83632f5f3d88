# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Each token's choice of experts, and the order of these choices by expert.

A *pair* is a token and one expert that it chose: pair p is of token p // CHOSEN.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow

SOFTMAX: tl.constexpr = tl.constexpr(0)
SOFTMAX_OF_CHOSEN: tl.constexpr = tl.constexpr(1)
SIGMOID: tl.constexpr = tl.constexpr(2)


@triton.jit
def choose_experts_kernel(
    logits_ptr,
    positions_ptr,
    correction_ptr,
    chosen_ptr,
    shares_ptr,
    least_sum,
    added_sum,
    scale,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHOSEN: tl.constexpr,
    SLOTS: tl.constexpr,
    SCORING: tl.constexpr,
    CORRECTED: tl.constexpr,
    NORMALISE: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One token a program: its CHOSEN experts and their weights; padding chooses none (EXPERTS)."""
    token = tl.program_id(0)
    at = tl.arange(0, WIDTH)
    inside = at < EXPERTS
    slots = tl.arange(0, SLOTS)
    real = slots < CHOSEN
    follow(OVERLAPS)
    is_token = tl.load(positions_ptr + token) >= 0
    logits = tl.load(logits_ptr + token.to(tl.int64) * EXPERTS + at, mask=inside, other=0.0)
    logits = logits.to(tl.float32)
    scores = logits
    if SCORING == SOFTMAX:
        weights = tl.where(inside, tl.exp(logits - tl.max(tl.where(inside, logits, -1e30), 0)), 0.0)
        scores = weights / tl.sum(weights, 0)
    elif SCORING == SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-logits))
    ranks = scores
    if CORRECTED:
        ranks += tl.load(correction_ptr + at, mask=inside, other=0.0)
    ranks = tl.where(inside, ranks, float("-inf"))
    chosen = tl.zeros((SLOTS,), tl.int32)
    shares = tl.zeros((SLOTS,), tl.float32)
    for slot in tl.static_range(CHOSEN):
        best = tl.minimum(tl.argmax(ranks, 0), EXPERTS - 1)  # whatever a NaN is
        chosen = tl.where(slots == slot, best, chosen)
        shares = tl.where(slots == slot, tl.sum(tl.where(at == best, scores, 0.0), 0), shares)
        ranks = tl.where(at == best, float("-inf"), ranks)
    if SCORING == SOFTMAX_OF_CHOSEN:
        weights = tl.where(real, tl.exp(shares - tl.max(tl.where(real, shares, -1e30), 0)), 0.0)
        shares = weights / tl.sum(weights, 0)
    elif NORMALISE:
        shares = shares / (tl.maximum(tl.sum(shares, 0), least_sum) + added_sum)
    place = token * CHOSEN + slots
    tl.store(chosen_ptr + place, tl.where(is_token, chosen, EXPERTS), mask=real)
    tl.store(shares_ptr + place, shares * scale, mask=real)


@triton.jit(do_not_specialize=["count"])
def group_pairs_kernel(
    chosen_ptr,
    pairs_ptr,
    experts_ptr,
    bounds_ptr,
    count,
    WIDTH: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One expert a program, and one for padding: its pairs' numbers, in order, after smaller experts'.

    `pairs` and `experts` (count,) int32: the pair, and its expert, at each place; `bounds`
    (experts + 1, 2) int32: where an expert's places begin and end.
    """
    expert = tl.program_id(0)
    lanes = tl.arange(0, WIDTH)
    begin = 0
    follow(OVERLAPS)
    for start in range(0, count, WIDTH):
        chosen = tl.load(chosen_ptr + start + lanes, mask=start + lanes < count, other=2147483647)
        begin += tl.sum((chosen < expert).to(tl.int32), 0)
    end = begin
    for start in range(0, count, WIDTH):
        chosen = tl.load(chosen_ptr + start + lanes, mask=start + lanes < count, other=2147483647)
        own = (chosen == expert).to(tl.int32)
        place = end + tl.cumsum(own, 0) - own
        tl.store(pairs_ptr + place, start + lanes, mask=own > 0)
        tl.store(experts_ptr + place, expert + lanes * 0, mask=own > 0)
        end += tl.sum(own, 0)
    tl.store(bounds_ptr + 2 * expert, begin)
    tl.store(bounds_ptr + 2 * expert + 1, end)
