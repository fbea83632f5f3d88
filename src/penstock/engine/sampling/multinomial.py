"""Drawing from the whole distribution, for several rows at once."""

from __future__ import annotations

from typing import Final

import torch

from penstock.engine.sampling.tensor_lists import integers

_STRIDE: Final = 256
"""Tokens in a bin of the two-level inverse CDF."""


def draw(scaled: torch.Tensor, numbers: torch.Tensor) -> list[int]:
    """Return the first token of each row at which the cumulative weight passes its number.

    `scaled` is (n, vocab) float32, the logarithms of the weights, and is overwritten; `numbers` is
    (n, 1) float64 on the CPU. Two levels, bins and then the tokens of one bin, so that there is
    one pass over the vocabulary; sums over bins and within one are in float64 on the CPU (some
    Intel GPUs have no float64).
    """
    weights = scaled.exp_()
    n, vocab = weights.shape
    whole = vocab - vocab % _STRIDE
    sums = [weights[:, :whole].reshape(n, -1, _STRIDE).sum(2)]
    if whole < vocab:
        sums.append(weights[:, whole:].sum(1, keepdim=True))
    bins = torch.cat(sums, dim=1).cpu().double()
    bin_ends = bins.cumsum(1)
    target = _below(numbers * bin_ends[:, -1:], bin_ends[:, -1:])
    chosen = torch.searchsorted(bin_ends, target, right=True)  # (n, 1)
    share = (target - bin_ends.gather(1, chosen)) / bins.gather(1, chosen) + 1  # within the bin
    columns = chosen.to(weights.device) * _STRIDE + torch.arange(_STRIDE, device=weights.device)
    inside = weights.gather(1, columns.clamp(max=vocab - 1)).masked_fill_(columns >= vocab, 0)
    ends = inside.cpu().double().cumsum(1)
    target = _below(share.clamp_(min=0) * ends[:, -1:], ends[:, -1:])
    return integers(chosen * _STRIDE + torch.searchsorted(ends, target, right=True))


def _below(value: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Keep a target strictly under its total, so that it always falls on a token with weight."""
    return torch.minimum(value, torch.nextafter(bound, torch.zeros_like(bound)))
