"""What a worker calls itself, and how it describes itself."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING

import penstock
from penstock.clock import clock
from penstock.contract.worker import WorkerCard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.serving.served_queue import ServedQueue


def new_worker_id() -> str:
    """Return a name for this process that no other one has had."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"


def card_of(
    worker_id: str, served_queues: Mapping[str, ServedQueue], *, started_ms: int, draining: bool
) -> WorkerCard:
    """Describe a worker as of now."""
    queues = served_queues.values()
    return WorkerCard(
        id=worker_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=penstock.__version__,
        started_ms=started_ms,
        heartbeat_ms=clock.now_ms(),
        models=tuple(served.card for served in queues),
        loads={served.queue: served.engine.load() for served in queues},
        draining=draining,
        adapters={
            served.queue: adapters.names()
            for served in queues
            if (adapters := served.adapters) is not None  # another thread may unload the model
        },
        states={
            served.queue: served.on_demand.state()
            for served in queues
            if served.on_demand is not None
        },
        exchange=next((served.exchange.card for served in queues if served.exchange), None),
    )
