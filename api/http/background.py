"""What an API process does besides answering requests, and after their ends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine


@asynccontextmanager
async def at_work(*chores: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run endless chores, each of which handles its own errors, until the block is left."""
    tasks = [asyncio.create_task(chore) for chore in chores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Background:
    """Work that outlives its request, such as cancelling the jobs of a client that has gone."""

    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start `work`; callers that need its result may await the task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def spawn_later(self, delay_s: float, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start `work` after a delay, if this process is still running then."""
        asyncio.get_running_loop().call_later(delay_s, lambda: self.spawn(work()))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio logs exceptions that were never retrieved

    async def drain(self, timeout_s: float) -> None:
        """Wait for running work to end, then cancel the rest."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
