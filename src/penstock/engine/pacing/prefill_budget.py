"""How many prompt tokens a step may compute besides the running sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.engine.pacing.step_cost import StepCost

if TYPE_CHECKING:
    from penstock.engine.options import EngineOptions

_FADE: Final = 0.9
"""Fast, as a token costs more the longer its context is."""

_FIRST: Final = 64
"""Tokens of a chunk before any step was measured."""

_ALONE: Final = 4
"""How much longer a step may take when no running stream waits for it."""


class PrefillBudget:
    """The prefill chunk: a fixed size, or one that keeps a step under a target time.

    With a target, it learns the cost of a step and of each token, and returns the chunk that fits.
    Prompts get at least half of a step's time, however many sequences decode: otherwise they would
    wait for all running sequences.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._target_s = None if options.target_step_ms is None else options.target_step_ms / 1e3
        self._ceiling = options.prefill_chunk_tokens
        self._lone = options.lone_chunk_tokens
        self._cost = StepCost(_FADE)

    @property
    def exhausted(self) -> bool:
        """Whether `shrink` cannot lower the budget any more."""
        return self._ceiling == 1

    def tokens(self, *, decoding: int, alone: bool = False) -> int:
        """Return the budget of the next step, in which `decoding` sequences get a token.

        `alone`: see `penstock.engine.scheduler.Scheduler.is_alone`.
        """
        lone = self._lone if alone else 0
        if self._target_s is None:
            return max(self._ceiling, lone)
        cost = self._cost.read()
        if cost is None:
            return min(self._ceiling, _FIRST)
        step_s, token_s = cost
        decode_s = step_s + token_s * decoding
        if decoding:
            spare_s = max(self._target_s - decode_s, decode_s)
        else:
            spare_s = self._target_s * _ALONE - step_s
        fitting = int(spare_s / max(token_s, 1e-9))
        least, most = self._options.min_chunk_tokens, self._options.max_chunk_tokens
        if self._ceiling < self._options.prefill_chunk_tokens:  # memory ran out before
            least, most = min(least, self._ceiling), self._ceiling
        return max(least, min(fitting, max(most, lone)))

    @property
    def token_s(self) -> float:
        """The measured time (s) of a prompt's token in a step; 0 before the first step."""
        cost = self._cost.read()
        return 0.0 if cost is None else cost[1]

    def observe(self, *, tokens: int, step_s: float) -> None:
        """Learn from a step that has computed `tokens`."""
        self._cost.observe(tokens, step_s)

    def shrink(self) -> None:
        """Halve the chunk: the device ran out of memory. Lone prompts get no longer ones any more."""
        self._lone = 0
        self._ceiling = max(1, self._ceiling // 2)

    def recover(self) -> None:
        """Double it again, up to the fixed size."""
        self._ceiling = min(self._options.prefill_chunk_tokens, self._ceiling * 2)
