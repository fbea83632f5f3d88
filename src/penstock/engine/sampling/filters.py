"""Drawing from a distribution that top_k, top_p and min_p cut down to its best tokens."""

from __future__ import annotations

from math import inf, log, nextafter
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from penstock.contract.job import Sampling

Floats = NDArray[np.float32] | NDArray[np.float64]
Ids = NDArray[np.int64]

_FIRST_WIDTH: Final = 128
_BIN: Final = 64


def filtered(sampling: Sampling) -> bool:
    """Whether any filter is on."""
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def draw_filtered(
    scaled: torch.Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]
) -> list[int]:
    """Draw a token for each row by inverse CDF in the order of token ids, among those kept.

    `scaled` is (n, vocab) float32, divided by the temperature, with 0 as each row's maximum. The
    filters are those of Transformers, in its order: top_k, top_p of what that leaves, min_p. Each
    keeps the best tokens down to a threshold, ties included.

    The threshold is searched for among a row's best few tokens; only if it lies below them, the
    whole row is used. So the result is exact, and mostly cheap.
    """
    vocab = scaled.shape[1]
    width = min(vocab, max(_FIRST_WIDTH, *(s.top_k + 1 for s in samplings)))
    totals = scaled.exp().sum(1).cpu().numpy()
    drawn: list[int] = []
    for row, (values, ids, bound) in enumerate(_candidates(scaled, width)):
        sampling = samplings[row]
        least = _floor(values, sampling, float(totals[row]))
        if least <= bound:
            values = scaled[row].cpu().numpy()  # noqa: PLW2901 - the same, but all of it
            ids = np.arange(vocab)  # noqa: PLW2901 - as above
            least = _floor(values, sampling, float(totals[row]))
        kept_ids = np.flatnonzero(values >= least)
        ends = np.exp(values[kept_ids]).astype(np.float64).cumsum()
        drawn.append(int(ids[kept_ids[_invert(ends, numbers[row])]]))
    return drawn


def _candidates(scaled: torch.Tensor, width: int) -> Iterator[tuple[Floats, Ids, float]]:
    """Yield each row's best tokens: their values, their ids in rising order, and a bound.

    Every token above the bound is among them, and about `width` in all.
    """
    if scaled.device.type == "cpu":
        return _candidates_by_bins(scaled, width)
    return _candidates_by_rank(scaled, width)


def _candidates_by_rank(scaled: torch.Tensor, width: int) -> Iterator[tuple[Floats, Ids, float]]:
    """On a GPU: by topk, so that only a few values of each row are copied from it."""
    best = scaled.topk(width, dim=1)
    order = best.indices.sort(dim=1)
    values = best.values.gather(1, order.indices).cpu().numpy()
    ids = order.values.cpu().numpy()
    for row in range(len(values)):
        yield values[row], ids[row], -inf if width == scaled.shape[1] else float(values[row].min())


def _candidates_by_bins(scaled: torch.Tensor, width: int) -> Iterator[tuple[Floats, Ids, float]]:
    """On the CPU: the bound is the width-th largest of the maxima of bins.

    NumPy's partition and masks took a tenth of the time of torch's topk (AVX-512, one thread).
    """
    count, vocab = scaled.shape
    bins = vocab // _BIN
    rows = scaled.numpy()
    if width >= bins:
        everything = np.arange(vocab)
        for row in rows:
            yield row, everything, -inf
        return
    maxima = scaled[:, : bins * _BIN].reshape(count, bins, _BIN).amax(dim=2).numpy()
    bounds = np.partition(maxima, bins - width, axis=1)[:, bins - width]
    for row, bound in zip(rows, bounds, strict=True):
        ids = np.flatnonzero(row >= bound)
        yield row[ids], ids, float(bound)


def _floor(values: Floats, sampling: Sampling, total: float) -> float:
    """Return the least value that the filters keep; `total` is the whole row's weight."""
    floor = -inf
    best = np.sort(values)[::-1]
    if 0 < sampling.top_k < len(best):
        floor = float(best[sampling.top_k - 1])
        best = best[: np.count_nonzero(best >= floor)]
    if sampling.top_p < 1:
        ends = np.exp(best).astype(np.float64).cumsum()
        weight = float(ends[-1]) if sampling.top_k > 0 else total
        # The token with which the sum reaches top_p is the last one kept.
        last = int(np.searchsorted(ends, sampling.top_p * weight))
        floor = float(best[min(last, len(best) - 1)])
    return max(floor, log(sampling.min_p)) if sampling.min_p > 0 else floor


def _invert(ends: NDArray[np.float64], number: float) -> int:
    """Return the first index whose running sum passes a share of the whole."""
    total = float(ends[-1])
    return int(np.searchsorted(ends, min(number * total, nextafter(total, 0.0)), side="right"))
