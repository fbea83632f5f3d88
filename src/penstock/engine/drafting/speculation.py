"""How many tokens to draft for each sequence, so that it pays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from penstock.engine.drafting.answer_index import SURE
from penstock.engine.drafting.prompt_lookup import PromptLookup
from penstock.engine.pacing.step_cost import StepCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.engine.drafting.answer_index import AnswerIndex
    from penstock.engine.sequence import Sequence

_WEIGHT: Final = 0.15
"""Weight of the newest token, right or wrong, in a sequence's acceptance rate."""

_FLEET_WEIGHT: Final = 0.02
"""The same in the acceptance rate of all sequences, which a new one starts with."""

_FADE: Final = 0.98

_MARGIN: Final = 1.25
"""How much more than its cost a draft token must be expected to save."""


_OWN: Final = 0
_OTHERS: Final = 1
_MODEL: Final = 2
"""Where a draft comes from: the sequence's own text, other answers, or a second model."""

_KINDS: Final = ("prompt", "answers")
"""The first two by name; the third has its own."""

_FIRST_RIGHT: Final = (0.5, 0.5, 0.7)
"""Acceptance rates by source, as long as nothing was measured."""

_LOOKED_EVERY: Final = 4
"""Tokens after which other answers are looked at although their tokens do not pay."""

_TRIED_EVERY: Final = 64
"""Steps after which a second model that does not pay is tried again."""

_WORTH_WEIGHT: Final = 0.01
_LEAST_WORTH: Final = 0.05
"""Least share of the steps in which a model that drafts pays: below that it rests."""


@dataclass(slots=True)
class _Draft:
    """One sequence's text so far, its acceptance rates by source, and its current draft."""

    right: list[float]
    lookup: PromptLookup = field(default_factory=PromptLookup)
    tokens: list[int] = field(default_factory=list[int])
    source: int = _OWN
    looked: int = 0


class ModelDrafts(Protocol):
    """Continues sequences by a second model, or by a head of the first one."""

    kind: str
    """What it is, for metrics."""
    pass_s: float
    """Seconds that one more token of all drafts takes; 0 before any was measured."""

    def draft(self, sequences: list[Sequence], count: int) -> dict[int, list[int]]:
        """Return up to `count` tokens for those sequences that it can continue, by sequence key."""
        ...

    def rest(self, *, resting: bool) -> None:
        """Spare the preparation of drafts while they do not pay."""
        ...

    def forget(self, key: int) -> None:
        """Drop the state of a sequence that has ended."""
        ...


class Drafter(Protocol):
    """Proposes the tokens that a step verifies."""

    def plan(self, decoding: Iterable[Sequence]) -> Mapping[int, list[int]]:
        """Return drafts by sequence key, for some of the decoding sequences."""
        ...

    def learn(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Compare a sequence's draft with the tokens that it got."""

    def kind(self, sequence: Sequence) -> str:
        """Return where a sequence's last draft came from, for metrics."""
        ...

    def observe(self, rows: int, step_s: float) -> None:
        """Learn the time of a step without prompts."""

    def keep(self, sequence: Sequence) -> None:
        """Take note of a whole answer."""

    def forget(self, key: int) -> None:
        """Drop the state of a sequence that has ended."""


class Speculation:
    """Drafts continuations, and counts how often they were right and what they cost.

    A draft token adds a row to the step. It pays if the chance that all tokens up to it are right,
    times the seconds that a token takes now, exceeds a row's seconds by a margin: long drafts for
    one stream whose text repeats itself, none in a batch that fills the machine. Drafts that were
    not computed are compared too, so the acceptance rate is known before they pay.
    The engine's thread owns it.
    """

    def __init__(
        self,
        most_tokens: int,
        answers: AnswerIndex | None = None,
        model: ModelDrafts | None = None,
        *,
        replays: bool = False,
    ) -> None:
        """Up to `most_tokens` are drafted for each sequence and step; 0 turns it off.

        `answers` are those of other sequences, for the requests that have a scope there. `model`
        drafts where no text is known to go on. `replays`: after a wrong token the right ones before it
        are computed once more, since the model keeps states.
        """
        self._most = most_tokens
        self._answers = answers
        self._cost = StepCost(_FADE)
        self._drafts: dict[int, _Draft] = {}
        self._right = [*_FIRST_RIGHT]
        self._model = model
        self._computed = 2 if replays else 1
        self._untried = 0
        self._worth = 1.0

    def plan(self, decoding: Iterable[Sequence]) -> dict[int, list[int]]:
        """Return the drafts of the decoding sequences, by sequence key."""
        if not self._most:
            return {}
        sequences = list(decoding)
        price = self._price(len(sequences))
        if price >= 1:  # not even a certain token would pay
            for sequence in sequences:
                self._draft(sequence).tokens = []
            self._note_worth(worthy=False)
            return {}
        for sequence in sequences:
            self._guess(sequence, self._draft(sequence), price)
        if self._model is not None:
            self._ask(self._model, sequences)
        drafts: dict[int, list[int]] = {}
        for sequence in sequences:
            state = self._draft(sequence)
            room = sequence.max_length - len(sequence.token_ids) - 1
            worthy = min(_worthy(state.right[state.source], price, self._most), room)
            if state.tokens and worthy > 0:
                drafts[sequence.key] = state.tokens[:worthy]
        return drafts

    def learn(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Compare a sequence's draft with the tokens that it got."""
        state = self._drafts.get(sequence.key)
        if state is None:
            return
        for drafted, token_id in zip(state.tokens, token_ids, strict=False):
            right, source = float(drafted == token_id), state.source
            state.right[source] += _WEIGHT * (right - state.right[source])
            self._right[source] += _FLEET_WEIGHT * (right - self._right[source])
            if not right:
                break
        state.tokens = []

    def kind(self, sequence: Sequence) -> str:
        """Return where a sequence's last draft came from, for metrics."""
        state = self._drafts.get(sequence.key)
        source = _OWN if state is None else state.source
        if source == _MODEL and self._model is not None:
            return self._model.kind
        return _KINDS[source]

    def observe(self, rows: int, step_s: float) -> None:
        """Learn the time of a step without prompts."""
        self._cost.observe(rows, step_s)

    def keep(self, sequence: Sequence) -> None:
        """Let other sequences of its scope be drafted from a whole answer."""
        scope, end = sequence.request.scope, sequence.prompt_length
        if self._most and self._answers is not None and scope:
            self._answers.keep(scope, sequence.token_ids[:end], sequence.token_ids[end:])

    def forget(self, key: int) -> None:
        """Drop the state of a sequence that has ended."""
        self._drafts.pop(key, None)
        if self._model is not None:
            self._model.forget(key)

    def _ask(self, model: ModelDrafts, sequences: list[Sequence]) -> None:
        """Have the model draft for the sequences without a draft, or with one that is seldom right.

        Its passes cost time, too: each token has to pay for its row and for its share of a pass.
        """
        asking = [
            sequence
            for sequence in sequences
            if not (state := self._drafts[sequence.key]).tokens
            or state.right[state.source] < state.right[_MODEL]
        ]
        price = self._price(len(sequences), model.pass_s)
        rates = [self._drafts[sequence.key].right[_MODEL] for sequence in asking]
        count = max((_worthy(rate, price, self._most) for rate in rates), default=0)
        if asking:
            self._note_worth(worthy=count > 0)
        if not count:
            self._untried += bool(asking)
            if self._untried < _TRIED_EVERY:
                return
            count = 1
        self._untried = 0
        drafts = model.draft(asking, count)
        for sequence in asking:
            if sequence.key in drafts:
                state = self._drafts[sequence.key]
                state.tokens, state.source = drafts[sequence.key], _MODEL

    def _note_worth(self, *, worthy: bool) -> None:
        """Have the model rest if its drafts would seldom pay."""
        if self._model is not None:
            self._worth += _WORTH_WEIGHT * (worthy - self._worth)
            self._model.rest(resting=self._worth < _LEAST_WORTH)

    def _guess(self, sequence: Sequence, state: _Draft, price: float) -> None:
        """Draft from a known answer if much of it matches, else from the text itself, if it can be."""
        token_ids, scope = sequence.token_ids, sequence.request.scope
        others, matched = [], 0
        state.looked += 1
        looks = state.right[_OTHERS] > price or state.looked % _LOOKED_EVERY == 1
        if looks and scope and self._answers is not None:
            others, matched = self._answers.draft(scope, token_ids, self._most)
        own = state.lookup.draft(token_ids, self._most) if matched < SURE else []
        state.tokens, state.source = (own, _OWN) if own else (others, _OTHERS)

    def _draft(self, sequence: Sequence) -> _Draft:
        state = self._drafts.get(sequence.key)
        if state is None:
            state = self._drafts[sequence.key] = _Draft([*self._right])
        return state

    def _price(self, sequences: int, pass_s: float = 0.0) -> float:
        """Return a row's seconds relative to those of a token now, with the margin.

        `pass_s` are seconds that a token of all drafts costs besides.
        """
        cost = self._cost.read()
        if cost is None or not sequences:
            return _MARGIN / 16
        step_s, row_s = cost
        token_s = max(step_s + row_s * sequences, 1e-9)
        return _MARGIN * (self._computed * row_s * sequences + pass_s) / token_s


def _worthy(right: float, price: float, most: int) -> int:
    """Return how many consecutive draft tokens are each worth their price."""
    count, chance = 0, right
    while count < most and chance > price:
        count += 1
        chance *= right
    return count
