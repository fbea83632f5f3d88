"""Connections of redis-py that do not lose a cancellation."""

from __future__ import annotations

import asyncio
from typing import Any, cast


class _Cancellable:
    """Keeps redis-py from losing a cancellation.

    It sends under `asyncio.wait_for`, which up to Python 3.11 swallows a cancellation that arrives
    just as the sending ends: the task would go on as if it had not been cancelled.
    """

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Send, then check whether the task was cancelled meanwhile."""
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await cast("Any", super()).send_packed_command(*args, **options)
        if task and task.cancelling() > before:
            await cast("Any", self).disconnect(nowait=True)
            raise asyncio.CancelledError


def make_cancellable(pool: Any) -> None:
    """Make a pool's future connections respect cancellations, whatever their class."""
    plain = pool.connection_class  # TLS or not, by the URL
    pool.connection_class = type(f"Cancellable{plain.__name__}", (_Cancellable, plain), {})
