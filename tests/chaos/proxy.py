"""A TCP proxy in front of Redis that can cut, stall, slow down and refuse."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES = 64 * 1024


class FaultyProxy:
    """Forwards `127.0.0.1:port` to a target; faults hit every connection at once."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_s = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyProxy]:
        """Listen on a free port for as long as the block lasts."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._open.set()
            self.cut()
            self._server.close()

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        """Keep connections open, but let no byte through."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Refuse everything, as a server that is down does."""
        self._refusing = True
        self.cut()
        try:
            yield
        finally:
            self._refusing = False

    @contextlib.asynccontextmanager
    async def slow(self, delay_s: float) -> AsyncIterator[None]:
        """Hold every chunk back for `delay_s`."""
        self.delay_s = delay_s
        try:
            yield
        finally:
            self.delay_s = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, up_writer}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, up_writer))
                tasks.create_task(self._pump(up_reader, writer))
        except* OSError:
            pass
        except* asyncio.CancelledError:  # the loop ends; asyncio's server would complain
            pass
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            await self._open.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(chunk)
            await sink.drain()
        raise ConnectionResetError  # one end closed: close the other end too
