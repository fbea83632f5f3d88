"""The one task that clients of Penstock send: a doorbell."""

from __future__ import annotations

from typing import Final

from celery import shared_task
from celery.exceptions import Reject

DOORBELL: Final = "penstock.doorbell"


@shared_task(name=DOORBELL)
def doorbell() -> None:
    """Announce that a job waits in the queue through which this message came.

    `EnginePool` answers it without ever calling this body; any other pool puts the bell back.
    """
    raise Reject("only workers.delivery.pool:EnginePool answers doorbells", requeue=True)
