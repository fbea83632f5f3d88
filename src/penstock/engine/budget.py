"""How many prompt tokens a step may compute beside the running sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from penstock.engine.options import EngineOptions

_WEIGHT: Final = 0.25
"""Of the newest measurement in the moving means."""

_ALONE: Final = 4
"""How much longer a step may take when no running stream waits for it."""


class PrefillBudget:
    """The prefill chunk: a fixed figure, or what keeps a step under a target time.

    With a target, it learns what a step costs without prefill and what a prompt token adds, and
    gives the chunk that fits; before it has measured both, and without a target, the fixed figure.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._target_s = None if options.target_step_ms is None else options.target_step_ms / 1e3
        self._ceiling = options.prefill_chunk_tokens
        self._decode_s: float | None = None
        self._token_s: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether `shrink` can lower the budget no more."""
        return self._ceiling == 1

    def tokens(self, *, decoding: bool) -> int:
        """Return the budget of the next step; `decoding` tells whether running streams wait."""
        if self._target_s is None or self._token_s is None:
            return self._ceiling
        spare_s = self._target_s - (self._decode_s or 0.0) if decoding else self._target_s * _ALONE
        fitting = int(spare_s / max(self._token_s, 1e-9))
        least, most = self._options.min_chunk_tokens, self._options.max_chunk_tokens
        if self._ceiling < self._options.prefill_chunk_tokens:  # memory ran out: no more than that
            least, most = min(least, self._ceiling), self._ceiling
        return max(least, min(fitting, most))

    def observe(self, *, decode_tokens: int, prefill_tokens: int, step_s: float) -> None:
        """Learn from a step that has been run."""
        if not prefill_tokens:
            self._decode_s = _mean(self._decode_s, step_s)
            return
        beside_s = (self._decode_s or 0.0) if decode_tokens else 0.0
        self._token_s = _mean(self._token_s, max(step_s - beside_s, 0.0) / prefill_tokens)

    def shrink(self) -> None:
        """Halve the chunk: the device ran out of memory."""
        self._ceiling = max(1, self._ceiling // 2)

    def recover(self) -> None:
        """Double it again, up to the fixed figure."""
        self._ceiling = min(self._options.prefill_chunk_tokens, self._ceiling * 2)


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)
