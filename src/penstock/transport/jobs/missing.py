"""Jobs that were looked for in vain, and since when."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

MARGIN_S: Final = 10.0
"""How much longer than one outage a job may be missing: it is submitted (again) when that is over."""
REMEMBERED: Final = 10_000


class MissingJobs:
    """Judges whether a job that is not in the store is lost. Owned by the event loop.

    One whose submission waits for Redis, or which Redis has lost and its process is submitting again,
    is not there either; an outage that is shorter than our patience is a pause.
    """

    def __init__(self, patience_s: float) -> None:
        self._grace_s = patience_s + MARGIN_S
        self._since_s: OrderedDict[str, float] = OrderedDict()

    def is_lost(self, job_id: str) -> bool:
        """Note that a job is not there, and return whether it has been so for too long."""
        now_s = time.monotonic()
        since_s = self._since_s.setdefault(job_id, now_s)
        while len(self._since_s) > REMEMBERED:
            self._since_s.popitem(last=False)
        return now_s - since_s > self._grace_s

    def is_there(self, job_id: str) -> None:
        """Note that a job is there, or has ended."""
        self._since_s.pop(job_id, None)
