"""The end of an API process: what it reports of itself, and which requests it still serves.

uvicorn stops accepting at SIGTERM and lets requests finish. Before that, balancers should hear of
it: for `settings.drain_notice_s` the process continues to serve, but `/ready` fails.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from penstock.errors import Draining

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.errors import PenstockError

PROBES: Final = frozenset({"/health", "/ready", "/metrics"})


class Drain:
    """Whether this process is about to end. Owned by the main thread."""

    def __init__(self, notice_s: float) -> None:
        self.draining = False
        """Make `/ready` fail, and close each connection after its current request."""
        self.closed = False
        """New requests are refused."""
        self._notice_s = notice_s
        self._server: Any = None

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Hear SIGTERM before the server does, which gets it afterwards."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        server = signal.getsignal(signal.SIGTERM) if in_main_thread else None
        if not callable(server):  # no server that would want to hear of it
            yield
            return
        self._server = server
        self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, server)

    def _on_signal(self, number: int, _frame: object) -> None:
        in_a_hurry = self.draining or self._notice_s <= 0
        self.draining = True
        if in_a_hurry:
            self._close(number)
        else:
            self._loop.call_soon_threadsafe(
                self._loop.call_later, self._notice_s, self._close, number
            )

    def _close(self, number: int) -> None:
        if not self.closed:
            self.closed = True
            self._server(number, None)


class DrainGate:
    """Sends clients on to another process once this one is about to end."""

    def __init__(
        self, app: ASGIApp, drain: Drain, refuse: Callable[[Request, PenstockError], Response]
    ) -> None:
        """`refuse` gives the response to a request, in its protocol's shape."""
        self._app = app
        self._drain = drain
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or not self._drain.draining:
            await self._app(scope, receive, send)
            return

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if self._drain.closed and scope["path"] not in PROBES:
            error = Draining("This server is shutting down; ask again")
            refusal = self._refuse(Request(scope), error)
            await refusal(scope, receive, send_last)
        else:
            await self._app(scope, receive, send_last)
