"""The engine of a model that is not in memory: it has no jobs, and takes none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.contract.worker import WorkerLoad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.sequence import SequenceRequest


class AbsentEngine:
    """See `workers.serving.served_queue.Engine`."""

    failure: BaseException | None = None

    def start(self) -> None:
        """Do nothing."""

    def stop(self, timeout_s: float) -> None:
        """Do nothing."""

    def submit(self, *requests: SequenceRequest) -> None:
        """:raises RuntimeError: always; no job is claimed for a model that is not in memory."""
        raise RuntimeError(f"{len(requests)} jobs for a model that is not in memory")

    def abort(self, attempt_ids: Iterable[str]) -> None:
        """Do nothing: nothing runs."""

    def load(self) -> WorkerLoad:
        """Return no load."""
        return WorkerLoad()

    def lost_heads(self) -> list[str]:
        """Return nothing; unloading has reported all."""
        return []

    def last_step_s(self) -> float:
        """Return now: it does not hang."""
        return time.monotonic()

    def usual_step_s(self) -> float | None:
        """Return None: unknown."""
        return None

    def busy(self) -> bool:
        """Return False."""
        return False
