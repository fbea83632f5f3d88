"""How many tokens to guess for each sequence, so that it pays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from penstock.engine.drafting.prompt_lookup import Lookup
from penstock.engine.pacing.step_cost import StepCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.engine.sequence import Sequence

_WEIGHT: Final = 0.15
"""Of the newest guess, right or wrong, in a sequence's share of right ones."""

_FLEET_WEIGHT: Final = 0.02
"""The same in the share of all sequences, with which a new one begins."""

_FADE: Final = 0.98

_MARGIN: Final = 1.25
"""How much more than it costs a guessed token must promise."""


@dataclass(slots=True)
class _Guesser:
    """One sequence's text so far, the share of right guesses, and the guess now open."""

    right: float
    lookup: Lookup = field(default_factory=Lookup)
    guess: list[int] = field(default_factory=list[int])


class Drafter(Protocol):
    """Proposes the tokens that a step verifies."""

    def plan(self, decoding: Iterable[Sequence]) -> Mapping[int, list[int]]:
        """Return drafts by sequence key, for some of the decoding sequences."""
        ...

    def learn(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Compare a sequence's draft with the tokens that it got."""

    def observe(self, rows: int, step_s: float) -> None:
        """Learn the time of a step without prompts."""

    def forget(self, key: int) -> None:
        """Drop the state of a sequence that has ended."""


class Speculation:
    """Guesses continuations, keeps account of how often they were right, and what they cost.

    A guessed token is a row more in the step. It is worth it where the chance that all up to it
    are right, times the seconds that a token takes now, passes a row's seconds by some margin: long
    guesses for one stream whose text repeats itself, none in a batch that fills the machine. Guesses
    that were not computed are compared all the same, so the share is known before it pays.
    The engine's thread owns it.
    """

    def __init__(self, most_tokens: int) -> None:
        """`most_tokens` are guessed for a sequence and step; 0 turns it off."""
        self._most = most_tokens
        self._cost = StepCost(_FADE)
        self._guessers: dict[int, _Guesser] = {}
        self._right = 0.5

    def plan(self, decoding: Iterable[Sequence]) -> dict[int, list[int]]:
        """Return the tokens to try, by sequence key, of the sequences that decode."""
        if not self._most:
            return {}
        sequences = list(decoding)
        price = self._price(len(sequences))
        if price >= 1:  # not even a certain guess would pay
            for sequence in sequences:
                self._guesser(sequence).guess = []
            return {}
        drafts: dict[int, list[int]] = {}
        for sequence in sequences:
            guesser = self._guesser(sequence)
            guesser.guess = guesser.lookup.guess(sequence.token_ids, self._most)
            room = sequence.max_length - len(sequence.token_ids) - 1
            worthy = min(_worthy(guesser.right, price, self._most), room)
            if guesser.guess and worthy > 0:
                drafts[sequence.key] = guesser.guess[:worthy]
        return drafts

    def learn(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Compare what was guessed for a sequence with the tokens that came."""
        guesser = self._guessers.get(sequence.key)
        if guesser is None:
            return
        for guessed, token_id in zip(guesser.guess, token_ids, strict=False):
            right = float(guessed == token_id)
            guesser.right += _WEIGHT * (right - guesser.right)
            self._right += _FLEET_WEIGHT * (right - self._right)
            if not right:
                break
        guesser.guess = []

    def observe(self, rows: int, step_s: float) -> None:
        """Learn what a step without prompts has taken."""
        self._cost.observe(rows, step_s)

    def forget(self, key: int) -> None:
        """Drop what is known of a sequence that has gone."""
        self._guessers.pop(key, None)

    def _guesser(self, sequence: Sequence) -> _Guesser:
        guesser = self._guessers.get(sequence.key)
        if guesser is None:
            guesser = self._guessers[sequence.key] = _Guesser(self._right)
        return guesser

    def _price(self, sequences: int) -> float:
        """Return a row's seconds over those that a token takes now, with the margin."""
        cost = self._cost.read()
        if cost is None or not sequences:
            return _MARGIN / 16
        step_s, row_s = cost
        return _MARGIN * row_s * sequences / max(step_s + row_s * sequences, 1e-9)


def _worthy(right: float, price: float, most: int) -> int:
    """Return how many guessed tokens in a row are each worth their price."""
    count, chance = 0, right
    while count < most and chance > price:
        count += 1
        chance *= right
    return count
