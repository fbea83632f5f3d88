"""Choosing each sequence's next token, and the log probabilities that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from penstock.contract.events import PositionLogprobs, TokenLogprob
from penstock.engine.filters import floors
from penstock.engine.randomness import uniform
from penstock.engine.readout import flags, float_rows, floats, integer_rows, integers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.contract.job import Sampling
    from penstock.engine.edits import LogitsEdits

_COLDEST: Final = 1e-5
"""Temperatures below are greedy: their quotients leave float32's range."""

_STRIDE: Final = 256
"""Tokens a bin of the two-level inverse CDF."""

_LEAST_LOGPROB: Final = -9999.0
"""What minus infinity becomes, which JSON cannot hold."""


@dataclass(slots=True)
class Choice:
    """What the sampler knows of one sequence. `position` is its next token's, in its answer."""

    sampling: Sampling
    edits: LogitsEdits | None
    position: int = 0
    greedy: bool = field(init=False)

    def __post_init__(self) -> None:
        self.greedy = self.sampling.temperature < _COLDEST

    def add(self, token_id: int) -> None:
        """Take note of the token that came."""
        self.position += 1
        if self.edits is not None:
            self.edits.add(token_id)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Token ids, one a row, None where the logits were not numbers; log probabilities if asked."""

    token_ids: list[int | None]
    logprobs: dict[int, PositionLogprobs]


@dataclass(frozen=True, slots=True)
class _RawLogprobs:
    """Log probabilities before any edit, for the rows that ask: raw is (rows, vocab)."""

    rows: list[int]
    raw: torch.Tensor
    total: torch.Tensor  # (rows, 1), the log of the sum of exponentials


class Sampler:
    """Chooses tokens for a batch; what it gives a row does not depend on the other rows.

    A row's token is its largest logit's when greedy. Otherwise it is drawn by inverse CDF with the
    uniform number of (seed, position): the sum runs in the order of token ids, not of
    probabilities, so that two nearly equal tokens, which may change places with the batch's
    rounding, cannot change the draw by more than that rounding.

    Log probabilities are those of the model's own logits, before edits, temperature and filters
    (as vLLM's `raw_logprobs`).
    """

    def __init__(self, token_text: Callable[[int], str]) -> None:
        self._token_text = token_text

    def sample(self, logits: torch.Tensor, choices: Sequence[Choice]) -> Chosen:
        """Choose one token a row; `logits` is (rows, vocab) float32 and may be written into."""
        if not choices:
            return Chosen([], {})
        raw = self._raw_logprobs(logits, choices)
        for row, choice in enumerate(choices):
            if choice.edits is not None:
                choice.edits.apply(logits[row], choice.position)
        best = logits.argmax(dim=1, keepdim=True)  # (rows, 1) int64
        peaks = logits.gather(1, best)
        drawn = [row for row, choice in enumerate(choices) if not choice.greedy]
        usable = flags(peaks.isfinite())
        token_ids = integers(best)
        drawn = [row for row in drawn if usable[row]]
        if drawn:
            every = len(drawn) == len(choices)
            part, part_peaks = (logits, peaks) if every else (logits[drawn], peaks[drawn])
            draws = _draw(part, part_peaks, [choices[row] for row in drawn])
            for row, token_id in zip(drawn, draws, strict=True):
                token_ids[row] = token_id
        return Chosen(
            [token if ok else None for token, ok in zip(token_ids, usable, strict=True)],
            {} if raw is None else self._logprobs(raw, choices, token_ids),
        )

    def _raw_logprobs(self, logits: torch.Tensor, choices: Sequence[Choice]) -> _RawLogprobs | None:
        rows = [row for row, choice in enumerate(choices) if choice.sampling.logprobs is not None]
        if not rows:
            return None
        raw = logits[rows]  # a copy: edits do not reach it
        return _RawLogprobs(rows, raw, raw.logsumexp(dim=1, keepdim=True))

    def _logprobs(
        self, raw: _RawLogprobs, choices: Sequence[Choice], token_ids: Sequence[int]
    ) -> dict[int, PositionLogprobs]:
        counts = [choices[row].sampling.logprobs or 0 for row in raw.rows]
        chosen = torch.tensor([[token_ids[row]] for row in raw.rows], device=raw.raw.device)
        chosen_logprobs = floats(raw.raw.gather(1, chosen) - raw.total)
        best = raw.raw.topk(min(max(counts), raw.raw.shape[1]), dim=1)
        best_logprobs = float_rows(best.values - raw.total)
        best_ids = integer_rows(best.indices)
        return {
            row: PositionLogprobs(
                chosen=self._describe(token_ids[row], chosen_logprobs[i]),
                top=tuple(
                    self._describe(token_id, logprob)
                    for token_id, logprob in zip(
                        best_ids[i][: counts[i]], best_logprobs[i][: counts[i]], strict=True
                    )
                ),
            )
            for i, row in enumerate(raw.rows)
        }

    def _describe(self, token_id: int, logprob: float) -> TokenLogprob:
        # max() with the bound first turns a NaN into the bound too.
        return TokenLogprob(token_id, self._token_text(token_id), max(_LEAST_LOGPROB, logprob))


def _draw(logits: torch.Tensor, peaks: torch.Tensor, choices: Sequence[Choice]) -> list[int]:
    """Draw one token a row; logits (n, vocab), their maxima (n, 1)."""
    temperatures = [[choice.sampling.temperature] for choice in choices]
    scaled = (logits - peaks).div_(torch.tensor(temperatures, device=logits.device))
    floor = floors(scaled, [choice.sampling for choice in choices])
    if floor is not None:
        scaled.masked_fill_(scaled < floor, -torch.inf)
    numbers = [[uniform(choice.sampling.seed, choice.position)] for choice in choices]
    return _invert(scaled.exp_(), torch.tensor(numbers, dtype=torch.float64))


def _invert(weights: torch.Tensor, numbers: torch.Tensor) -> list[int]:
    """Return the least token of each row up to which the share of the weights passes its number.

    Weights (n, vocab) float32, numbers (n, 1) float64. Two levels, bins and then the tokens of
    one bin, so that only one pass goes over the vocabulary; sums over bins and within one are in
    float64 on the CPU (some Intel GPUs have no float64).
    """
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
    offset = torch.searchsorted(ends, target, right=True)
    return integers(chosen * _STRIDE + offset)


def _below(value: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Keep a target strictly under its total, so that it always falls on a token with weight."""
    return torch.minimum(value, torch.nextafter(bound, torch.zeros_like(bound)))
