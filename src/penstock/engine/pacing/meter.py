"""The engine's own figures, for the registry and the autoscaler."""

from __future__ import annotations

import time
from collections import deque
from math import exp
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Final

from penstock.contract.worker import DraftLoad, StoreLoad, WorkerLoad

if TYPE_CHECKING:
    from collections.abc import Callable

_MEMORY_S: Final = 5.0
"""Time constant of the rates: older steps hardly count."""


class Meter:
    """Totals, rates and step times. The engine's thread writes, any thread reads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._steps_s: deque[float] = deque(maxlen=64)
        self._started_s = self._updated_s = clock()
        self._decoded = self._prefilled = 0.0  # tokens, fading
        self._generated_total = self._prompt_total = 0
        self._finished_total = self._preempted_total = 0
        self._prefilled_total = self._cached_total = 0
        self._drafts_total = self._drafted_total = self._accepted_total = 0
        self._by_kind: dict[str, DraftLoad] = {}

    def step(self, *, prefilled: int, step_s: float) -> None:
        """Count a step that computed `prefilled` prompt tokens."""
        with self._lock:
            self._fade()
            self._prefilled += prefilled
            self._prefilled_total += prefilled
            self._steps_s.append(step_s)

    def emitted(self, *, tokens: int, drafted: int, kind: str = "") -> None:
        """Count a sequence's new tokens of one step, and its draft tokens, which are of a kind."""
        with self._lock:
            self._decoded += tokens
            self._generated_total += tokens
            if drafted:
                self._drafts_total += 1
                self._drafted_total += drafted
                accepted = min(tokens - 1, drafted)
                self._accepted_total += accepted
                before = self._by_kind.get(kind, DraftLoad())
                self._by_kind[kind] = DraftLoad(
                    before.drafted_tokens_total + drafted, before.accepted_tokens_total + accepted
                )

    def accepted(self, prompt_tokens: int) -> None:
        """Count an accepted sequence."""
        with self._lock:
            self._prompt_total += prompt_tokens

    def finished(self, cached_tokens: int) -> None:
        """Count a finished sequence; so many of its prompt's tokens were in the prefix cache."""
        with self._lock:
            self._finished_total += 1
            self._cached_total += cached_tokens

    def preempted(self, sequences: int) -> None:
        """Count preempted sequences."""
        with self._lock:
            self._preempted_total += sequences

    def read(
        self,
        *,
        running: int,
        waiting: int,
        kv_use: float,
        prefill_token_s: float = 0.0,
        stored: StoreLoad | None = None,
    ) -> WorkerLoad:
        """Return the load now."""
        with self._lock:
            self._fade()
            # A new meter has seen less time than its time constant.
            seen_s = max(self._updated_s - self._started_s, 1e-3)
            weight_s = _MEMORY_S * (1.0 - exp(-seen_s / _MEMORY_S))
            return WorkerLoad(
                running=running,
                waiting=waiting,
                kv_use=kv_use,
                decode_tokens_per_s=self._decoded / weight_s,
                prefill_tokens_per_s=self._prefilled / weight_s,
                step_ms=median(self._steps_s) * 1e3 if self._steps_s else 0.0,
                generated_tokens_total=self._generated_total,
                prompt_tokens_total=self._prompt_total,
                finished_total=self._finished_total,
                preempted_total=self._preempted_total,
                drafts_total=self._drafts_total,
                drafted_tokens_total=self._drafted_total,
                accepted_tokens_total=self._accepted_total,
                drafts_by_kind=dict(self._by_kind),
                prefill_token_ms=prefill_token_s * 1e3,
                prefilled_tokens_total=self._prefilled_total,
                cached_tokens_total=self._cached_total,
                store=stored,
            )

    def _fade(self) -> None:
        now_s = self._clock()
        share = exp((self._updated_s - now_s) / _MEMORY_S)
        self._decoded *= share
        self._prefilled *= share
        self._updated_s = now_s
