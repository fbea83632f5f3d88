"""Choosing each sequence's next token, and its log probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from penstock.contract.events import UNKNOWN_LOGPROB, PositionLogprobs, TokenLogprob
from penstock.engine.sampling.constraint import forbid
from penstock.engine.sampling.counter_random import uniform
from penstock.engine.sampling.filters import draw_filtered, filtered
from penstock.engine.sampling.multinomial import draw
from penstock.engine.sampling.tensor_lists import flags, float_rows, floats, integer_rows, integers
from penstock.engine.text.detokenizer import REPLACEMENT
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from penstock.contract.job import Sampling
    from penstock.engine.sampling.constraint import Constraint
    from penstock.engine.sampling.logits_edits import LogitsEdits

_COLDEST: Final = 1e-5
"""Temperatures below are greedy: their quotients leave float32's range."""

_CACHED: Final = 1 << 18
"""Logits that are drawn from at a time: more would not stay in a core's cache."""

_LEAST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON does not have."""


@dataclass(slots=True)
class Choice:
    """The sampler's state of one sequence. `position` is the next token's in its answer.

    `ahead` are draft tokens that are assumed right: the choice is for the token after them.
    `failure` is the error of its constraint; the sequence then gets no more tokens.
    """

    sampling: Sampling
    edits: LogitsEdits | None
    constraint: Constraint | None = None
    position: int = 0
    failure: PenstockError | None = None
    ahead: tuple[int, ...] = ()
    greedy: bool = field(init=False)

    def __post_init__(self) -> None:
        self.greedy = self.sampling.temperature < _COLDEST

    def along(self, draft: tuple[int, ...]) -> list[Choice]:
        """Return the choices of the next token and of those after each token of a draft.

        They share one state and are valid until it changes.
        """
        return [
            self,
            *(
                replace(self, position=self.position + count, ahead=draft[:count])
                for count in range(1, len(draft) + 1)
            ),
        ]

    def add(self, token_id: int) -> None:
        """Add the chosen token."""
        self.position += 1
        if self.edits is not None:
            self.edits.add(token_id)
        if self.constraint is not None and not self.failure:
            try:
                self.constraint.advance(token_id)
            except PenstockError as error:
                self.failure = error

    def mask(self) -> bytes:
        """Return the constraint's mask; empty if it has failed."""
        if self.constraint is not None and not self.failure:
            try:
                return self.constraint.mask(self.ahead)
            except PenstockError as error:
                self.failure = error
        return b""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Token ids, one for each row, None if its logits are not numbers; requested log probabilities."""

    token_ids: list[int | None]
    logprobs: dict[int, PositionLogprobs]


@dataclass(frozen=True, slots=True)
class _RawLogprobs:
    """Log probabilities before any edit, for the rows that request them: raw is (rows, vocab)."""

    rows: list[int]
    raw: torch.Tensor
    total: torch.Tensor  # (rows, 1), the log of the sum of exponentials


class Sampler:
    """Chooses tokens for a batch; a row's token does not depend on the other rows.

    A row's token is its largest logit's when greedy. Otherwise it is drawn by inverse CDF with the
    uniform number of (seed, position): the sum runs in the order of token ids, not of
    probabilities, so that two nearly equal tokens, which may change places with the batch's
    rounding, cannot change the draw by more than that rounding.

    Log probabilities are those of the model's own logits, before edits, temperature and filters
    (as vLLM's `raw_logprobs`).
    """

    def __init__(
        self, token_text: Callable[[int], str], token_bytes: Callable[[int], bytes]
    ) -> None:
        self._token_text = token_text
        self._token_bytes = token_bytes

    def sample(self, logits: torch.Tensor, choices: Sequence[Choice]) -> Chosen:
        """Choose a token for each row; `logits` is (rows, vocab) float32 and is changed in place."""
        if not choices:
            return Chosen([], {})
        raw = self._raw_logprobs(logits, choices)
        for row, choice in enumerate(choices):
            if choice.edits is not None:
                choice.edits.apply(logits[row], choice.position, choice.ahead)
        constrained = [row for row, choice in enumerate(choices) if choice.constraint is not None]
        if constrained:
            # After the edits: no bias may allow a token that the constraint forbids.
            forbid(logits, constrained, [choices[row].mask() for row in constrained])
        token_ids, peaks, usable = _largest(logits)
        drawn = [row for row, c in enumerate(choices) if usable[row] and not c.greedy]
        for row, token_id in _draw(logits, peaks, choices, drawn):
            token_ids[row] = token_id
        return Chosen(
            [token if ok else None for token, ok in zip(token_ids, usable, strict=True)],
            {} if raw is None else self._logprobs(raw, choices, token_ids),
        )

    def score(
        self, logits: torch.Tensor, token_ids: Sequence[int], count: int
    ) -> list[PositionLogprobs]:
        """Return the log probabilities of the given tokens and of each row's `count` best.

        `logits` is (rows, vocab) float32, one row for each token.
        """
        total = logits.logsumexp(dim=1, keepdim=True)
        raw = _RawLogprobs(list(range(len(token_ids))), logits, total)
        return list(self._described(raw, [count] * len(token_ids), token_ids).values())

    def scores(self, first: int, rest: Sequence[PositionLogprobs]) -> tuple[PositionLogprobs, ...]:
        """Return a prompt's log probabilities: its `first` token has none."""
        unknown = self._describe(first, UNKNOWN_LOGPROB)
        return (PositionLogprobs(unknown), *rest)

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
        return self._described(raw, counts, token_ids)

    def _described(
        self, raw: _RawLogprobs, counts: Sequence[int], token_ids: Sequence[int]
    ) -> dict[int, PositionLogprobs]:
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
        text = self._token_text(token_id)
        part = self._token_bytes(token_id) if REPLACEMENT in text else b""
        return TokenLogprob(token_id, text, max(_LEAST_LOGPROB, logprob), part)


def _largest(logits: torch.Tensor) -> tuple[list[int], torch.Tensor, list[bool]]:
    """Return each row's first largest column, its value, (n, 1), and whether that is finite.

    The first NaN counts as the largest.
    """
    if logits.device.type != "cpu":
        best = logits.argmax(dim=1, keepdim=True)
        peaks = logits.gather(1, best)
        return integers(best), peaks, flags(peaks.isfinite())
    # NumPy's argmax is 25 times faster than torch's on the CPU (32,000 columns, AVX-512), and
    # behind a step, which leaves no code in the caches, each of torch's operations takes long.
    values: NDArray[np.float32] = logits.numpy()
    columns = values.argmax(axis=1)
    largest = values[np.arange(len(columns)), columns]
    return columns.tolist(), torch.as_tensor(largest[:, None]), np.isfinite(largest).tolist()


def _draw(
    logits: torch.Tensor, peaks: torch.Tensor, choices: Sequence[Choice], rows: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Draw a token for each of `rows`; yields (row, token). Maxima `peaks` are (n, 1)."""
    size = max(1, _CACHED // logits.shape[1])
    for cut in (False, True):
        alike = [row for row in rows if filtered(choices[row].sampling) is cut]
        for begin in range(0, len(alike), size):
            part = alike[begin : begin + size]
            samplings = [choices[row].sampling for row in part]
            warmth = torch.tensor([[s.temperature] for s in samplings], device=logits.device)
            scaled = (_rows(logits, part) - _rows(peaks, part)).div_(warmth)
            numbers = [uniform(choices[row].sampling.seed, choices[row].position) for row in part]
            if cut:
                tokens = draw_filtered(scaled, samplings, numbers)
            else:
                tokens = draw(scaled, torch.tensor(numbers, dtype=torch.float64)[:, None])
            yield from zip(part, tokens, strict=True)


def _rows(matrix: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return rows in rising order: a view if they are adjacent, else a copy."""
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows):
        return matrix[first : last + 1]
    return matrix.index_select(0, torch.tensor(rows, device=matrix.device))
