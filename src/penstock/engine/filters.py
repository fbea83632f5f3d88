"""The filters of a sampled distribution as one figure a row: the least logit that stays."""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING, Final

import torch

from penstock.engine.readout import flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.job import Sampling

_FIRST_WIDTH: Final = 128
_WIDER: Final = 16


def floors(scaled: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor | None:
    """Return the least scaled logit that each row keeps, (n, 1) float32; None: all keep all.

    `scaled` is (n, vocab) float32, divided by the temperature, with 0 as each row's maximum.
    top_k, top_p of what it leaves, and min_p all keep the best tokens down to some figure, so a
    threshold says it all; tokens that tie with the last kept one stay, whatever their order.
    """
    if all(s.top_k <= 0 and s.top_p >= 1 and s.min_p <= 0 for s in samplings):
        return None
    floor = torch.full((len(samplings), 1), -inf, dtype=torch.float32, device=scaled.device)
    _keep_top_k(floor, scaled, samplings)
    _keep_top_p(floor, scaled, samplings)
    least = [log(s.min_p) if s.min_p > 0 else -inf for s in samplings]
    return torch.maximum(floor, torch.tensor(least, device=floor.device)[:, None])


def _keep_top_k(floor: torch.Tensor, scaled: torch.Tensor, samplings: Sequence[Sampling]) -> None:
    vocab = scaled.shape[1]
    rows = [row for row, s in enumerate(samplings) if 0 < s.top_k < vocab]
    if not rows:
        return
    ks = torch.tensor([[samplings[row].top_k] for row in rows], device=scaled.device)
    best = scaled[rows].topk(int(ks.max()), dim=1).values  # (rows, k)
    floor[rows] = best.gather(1, ks - 1)


def _keep_top_p(floor: torch.Tensor, scaled: torch.Tensor, samplings: Sequence[Sampling]) -> None:
    """Raise the floors to the least token of each row's nucleus.

    The nucleus is looked for among the best few tokens first; only a row whose best few do not
    reach its top_p is sorted further, in the end as a whole, so that the result is exact.
    """
    vocab, width = scaled.shape[1], _FIRST_WIDTH
    rows = [row for row, s in enumerate(samplings) if s.top_p < 1]
    while rows:
        width = min(width, vocab)
        part, part_floor = scaled[rows], floor[rows]
        total = part.exp().masked_fill_(part < part_floor, 0).sum(1, keepdim=True).cpu().double()
        best = part.topk(width, dim=1).values
        kept_by_k = best >= part_floor
        weights = (best.exp() * kept_by_k).cpu().double()  # (rows, width), best first
        share = torch.tensor([[samplings[row].top_p] for row in rows], dtype=torch.float64)
        before = weights.cumsum(1) - weights
        kept = ((before < share * total) & kept_by_k.cpu()).sum(1).clamp_(min=1)
        conclusive = [width == vocab or ok for ok in flags(kept < width)]
        last = best.gather(1, kept[:, None].to(best.device) - 1)
        done = [i for i, ok in enumerate(conclusive) if ok]
        floor[[rows[i] for i in done]] = last[done]
        rows = [row for row, ok in zip(rows, conclusive, strict=True) if not ok]
        width *= _WIDER
