"""Requests that arrive in the same instant begin a few at a time. Pure ASGI."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from api.http.middleware import QUIET_PATHS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

AT_ONCE: Final = 4
"""Requests that begin in one turn of the event loop."""


class Turnstile:
    """Lets a few requests begin in each turn of the event loop, in the order in which they came.

    The loop takes all of them one step further before any goes two: of many, each would have to be
    read and checked before the first one's job is on its queue, and the workers would wait meanwhile.
    Nobody waits here for what another request does later. Owned by one event loop.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; probes need not wait, whatever else comes."""
        if scope["type"] == "http" and scope["path"] not in QUIET_PATHS:
            await self._wait()
        await self._app(scope, receive, send)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._turn, loop)
        if self._begun < AT_ONCE:
            self._begun += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the next turn: waiting requests go first, and later ones wait behind them."""
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # its caller has gone
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            loop.call_soon(self._turn, loop)
