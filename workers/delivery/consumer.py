"""Celery's consumer, back soon after an outage."""

from __future__ import annotations

import logging
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


class CalmAcks(logging.Filter):
    """Makes a line of an ack that Redis's absence has cut off: the bell rings again, no harm done.

    kombu calls it critical and shows three tracebacks.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it is always kept."""
        if str(record.msg).startswith("Couldn't ack"):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.exc_info = record.exc_text = None
        return True


def calm_acks() -> None:
    """Have Celery's requests tell of lost acks in a line."""
    logging.getLogger("celery.worker.request").addFilter(CalmAcks())
