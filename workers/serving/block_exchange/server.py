"""Serves the blocks of this host's store to other hosts that have the token."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio.to_thread
import uvicorn
from celery.utils.log import get_logger
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from penstock.clock import clock
from penstock.engine.reuse.block_files import BlockFiles
from penstock.errors import StartupError
from workers.serving.block_exchange.wire import HAS, MOST_NAMES, NAME_BYTES, READ, Token, names_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

logger = get_logger(__name__)

PORTS: Final = 64
"""How many workers of one host may share a first port: each takes the next free one."""
CONNECTIONS: Final = 64
"""Connections at once; more are refused."""
READERS: Final = 4
"""Answers with blocks at once: each has one block in memory. Others wait for their turn."""
LONGEST_S: Final = 30.0
"""The longest time of a call, from the first byte of its body to the last of its answer."""
_IDENTITY_CHARS: Final = 32
_STOP_S: Final = 2.0


class BlockServer:
    """An HTTP server in a thread of its own, with two calls, both by POST with the names of blocks.

    `/blocks/<identity>/has` returns a byte for each, 1 if it is there; `/blocks/<identity>/read` the
    blocks with their headers and seals, up to the first that is missing.
    """

    def __init__(self, folder: Path, token: Token, host: str, port: int) -> None:
        """Bind the port, or the first free one after it; 0: any.

        :raises StartupError: no port is free there.
        """
        self._folder = folder
        self._token = token
        self._turns = asyncio.Semaphore(READERS)
        self._socket = _bound(host, port)
        self.url = _url(self._socket)
        config = uvicorn.Config(
            self._bounded,
            log_config=None,
            access_log=False,
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
        )
        self._server = uvicorn.Server(config)
        self._app = Starlette(
            routes=[Route("/blocks/{identity}/{call}", self._answer, methods=["POST"])]
        )
        self._thread = threading.Thread(target=self._run, name="block-server", daemon=True)

    def start(self) -> None:
        """Start to serve; whoever connects from now on is answered."""
        self._socket.listen(CONNECTIONS)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.should_exit = self._server.force_exit = True
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            logger.exception("The exchange of blocks has ended")

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a call; one that takes too long loses its connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_S):
                await self._app(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return PlainTextResponse(f"more than {MOST_NAMES} names", 413)
        header = request.headers.get("authorization", "")
        if not self._token.has_signed(header, request.url.path, body, clock.now_s()):
            return PlainTextResponse("PENSTOCK_KV_EXCHANGE_TOKEN is another one here", 401)
        identity, names = _identity(request.path_params["identity"]), names_of(body)
        if identity is None or names is None:
            return PlainTextResponse(f"names have {NAME_BYTES} bytes", 400)
        files = BlockFiles(self._folder, identity, 0)
        call = request.path_params["call"]
        if call == HAS:
            return Response(await anyio.to_thread.run_sync(_has, files, names))
        if call == READ:
            return StreamingResponse(
                self._blocks(files, names), media_type="application/octet-stream"
            )
        return PlainTextResponse("there is no such call", 404)

    async def _blocks(self, files: BlockFiles, names: list[bytes]) -> AsyncIterator[bytes]:
        """Yield blocks with their headers and seals."""
        async with self._turns:
            for name in names:
                frame, seal = await anyio.to_thread.run_sync(self._sealed, files, name)
                if not frame:
                    return
                yield frame
                yield seal

    def _sealed(self, files: BlockFiles, name: bytes) -> tuple[bytes, bytes]:
        """Return a block with its header, and its seal; nothing if it is not there, or damaged."""
        try:
            frame = files.read_with_header(name) or b""
        except (OSError, MemoryError):
            return b"", b""
        return frame, self._token.seal(frame)


def _has(files: BlockFiles, names: list[bytes]) -> bytes:
    try:
        return bytes(files.has(name) for name in names)
    except OSError:
        return bytes(len(names))


async def _body(request: Request) -> bytes | None:
    """Return a request's body; None if it is too long."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_NAMES * NAME_BYTES:
            return None
    return body


def _identity(text: str) -> bytes | None:
    if len(text) != _IDENTITY_CHARS:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket at a port, or at the first free one after it.

    :raises StartupError: none is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    failure: OSError | None = None
    for number in range(port, port + PORTS) if port else (0,):
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.bind((host, number))
        except (OSError, OverflowError) as error:
            bound.close()
            failure = OSError(str(error))
        else:
            return bound
    raise StartupError(f"PENSTOCK_KV_EXCHANGE_HOST, {host} port {port or 'any'}: {failure}")


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
