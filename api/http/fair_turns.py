"""Turns at work that few may do at the same time, shared fairly by tenants."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class FairTurns:
    """At most `at_once` turns run, `a_tenant` of them one tenant's; others wait.

    The next turn is that of the waiting tenant with the fewest running. Owned by the event loop.
    """

    def __init__(self, at_once: int, a_tenant: int) -> None:
        self._at_once = at_once
        self._a_tenant = a_tenant
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncGenerator[None]:
        """Wait for a tenant's turn, and hold it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._begin_next()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._running[tenant] -= 1
                self._running += Counter()  # drops the tenants that have none
            else:
                self._leave(tenant, turn)
            self._begin_next()

    def _begin_next(self) -> None:
        while self._running.total() < self._at_once:
            waiting = [one for one in self._waiting if self._running[one] < self._a_tenant]
            if not waiting:
                return
            tenant = min(waiting, key=self._running.__getitem__)
            turn = self._waiting[tenant][0]
            self._leave(tenant, turn)
            if tenant in self._waiting:  # behind others with as few
                self._waiting[tenant] = self._waiting.pop(tenant)
            if not turn.cancelled():
                self._running[tenant] += 1
                turn.set_result(None)

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        """Take a turn out of the line, if it is there."""
        line = self._waiting.get(tenant)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[tenant]
