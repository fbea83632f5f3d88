"""Celery's consumer, back soon after an outage."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 2.0


class PromptConsumer(Consumer):
    """Looks for a lost Redis every two seconds; Celery's own pauses grow to half a minute."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection once it stands."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=FIRST_PAUSE_S,
            interval_step=FIRST_PAUSE_S,
            interval_max=LONGEST_PAUSE_S,
        )
        return super().ensure_connected(conn)
