"""Jobs that were not in the store when looked for, and since when."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

MARGIN_S: Final = 10.0
"""How much longer than an outage a job may be missing: it is submitted (again) after it."""
REMEMBERED: Final = 10_000


class MissingJobs:
    """Decides whether a job that is not in the store is lost. Owned by the event loop.

    A job is also missing while its submission waits for Redis, or while its process submits it
    again after Redis lost it. An outage shorter than our patience does not lose a job.
    """

    def __init__(self, patience_s: float) -> None:
        self._grace_s = patience_s + MARGIN_S
        self._since_s: OrderedDict[str, float] = OrderedDict()

    def is_lost(self, job_id: str) -> bool:
        """Record that a job is missing, and return whether it has been missing for too long."""
        now_s = time.monotonic()
        since_s = self._since_s.setdefault(job_id, now_s)
        while len(self._since_s) > REMEMBERED:
            self._since_s.popitem(last=False)
        return now_s - since_s > self._grace_s

    def is_there(self, job_id: str) -> None:
        """Record that a job exists, or has ended."""
        self._since_s.pop(job_id, None)
