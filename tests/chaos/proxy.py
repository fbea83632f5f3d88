"""A TCP proxy in front of Redis that can cut, stall, slow down, refuse, and lose one client."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES = 64 * 1024


class FaultyProxy:
    """Forwards `127.0.0.1:port` to a target; faults hit every connection at once.

    A client may have a door (a port) of its own, which can be lost alone.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_s = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self._doors: dict[int, asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyProxy]:
        """Listen on a free port for as long as the block lasts."""
        self.port = await self.new_door()
        try:
            yield self
        finally:
            for event in (self._open, *self._doors.values()):
                event.set()
            self.cut()
            for server in self._servers:
                server.close()

    async def new_door(self) -> int:
        """Listen on one more port, and return it."""
        door = asyncio.Event()
        door.set()
        server = await asyncio.start_server(partial(self._serve, door), "127.0.0.1", 0)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        self._doors[port] = door
        return port

    @contextlib.asynccontextmanager
    async def lost(self, port: int) -> AsyncIterator[None]:
        """Let nothing through one door, either way: a network that swallows packets."""
        self._doors[port].clear()
        try:
            yield
        finally:
            self._doors[port].set()

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

    async def _serve(
        self, door: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
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
                tasks.create_task(self._pump(door, reader, up_writer))
                tasks.create_task(self._pump(door, up_reader, writer))
        except* OSError:
            pass
        except* asyncio.CancelledError:  # the loop ends; asyncio's server would complain
            pass
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(
        self, door: asyncio.Event, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            await door.wait()
            await self._open.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(chunk)
            await sink.drain()
        raise ConnectionResetError  # one end closed: close the other end too
