"""A TCP proxy in front of Redis that can cut, stall, slow down, refuse, and lose one client."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Iterable

CHUNK_BYTES = 64 * 1024
LOOPBACK = "127.0.0.1"


class Gate:
    """Lets bytes pass while it is open; holds them back while it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passage(self) -> None:
        await self._open.wait()


@dataclass(eq=False)
class Gates:
    """The two directions of a door or of one connection."""

    there: Gate = field(default_factory=Gate)
    """To Redis."""
    back: Gate = field(default_factory=Gate)

    def both(self) -> tuple[Gate, Gate]:
        return self.there, self.back


@contextlib.asynccontextmanager
async def shut(gates: Iterable[Gate]) -> AsyncIterator[None]:
    """Hold back what comes to these gates; afterwards all of it passes."""
    held = tuple(gates)
    for gate in held:
        gate.shut()
    try:
        yield
    finally:
        for gate in held:
            gate.open()


class FaultyProxy:
    """Forwards `127.0.0.1:port` to a target; faults hit every connection at once.

    A client may have a door (a port) of its own, which can be lost alone.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_s = 0.0
        self._all = Gates()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self._doors: dict[int, Gates] = {}
        self._connections: set[Gates] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyProxy]:
        """Listen on a free port for as long as the block lasts."""
        self.port = await self.new_door()
        try:
            yield self
        finally:
            for gates in (self._all, *self._doors.values(), *self._connections):
                for gate in gates.both():
                    gate.open()
            self.cut()
            for server in self._servers:
                server.close()

    async def new_door(self, host: str = LOOPBACK) -> int:
        """Listen on one more port, at `host`, and return it."""
        gates = Gates()
        server = await asyncio.start_server(partial(self._serve, gates), host, 0)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        self._doors[port] = gates
        return port

    def door(self, port: int) -> Gates:
        """Return the gates of one door."""
        return self._doors[port]

    def some_connections(self, rng: random.Random) -> list[Gates]:
        """Return the gates of about half of the connections."""
        return [gates for gates in self._connections if rng.random() < 0.5]

    @contextlib.asynccontextmanager
    async def lost(self, port: int) -> AsyncIterator[None]:
        """Let nothing through one door, either way: a network that swallows packets."""
        async with shut(self._doors[port].both()):
            yield

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def stalled(self, *, there: bool = True, back: bool = True) -> AsyncIterator[None]:
        """Keep connections open, but let no byte through, in both directions or in one."""
        ways = ((self._all.there, there), (self._all.back, back))
        async with shut(gate for gate, chosen in ways if chosen):
            yield

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
        self, door: Gates, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, up_writer}
        own = Gates()
        self._writers |= pair
        self._connections.add(own)
        there = (door.there, self._all.there, own.there)
        back = (door.back, self._all.back, own.back)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(there, reader, up_writer))
                tasks.create_task(self._pump(back, up_reader, writer))
        except* OSError:
            pass
        except* asyncio.CancelledError:  # the loop ends; asyncio's server would complain
            pass
        finally:
            self._writers -= pair
            self._connections.discard(own)
            for end in pair:
                end.transport.abort()

    async def _pump(
        self, gates: Iterable[Gate], source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            for gate in gates:
                await gate.passage()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(chunk)
            await sink.drain()
        raise ConnectionResetError  # one end closed: close the other end too
