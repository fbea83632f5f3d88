"""Faults of a Redis that keeps what it has: away, slow, paused, refusing, demoted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.chaos.fleet import Fleet

LOADED_S = 120.0
SHORT_OF_PATIENCE_S = 12.0
"""The longest fault that is to be a pause; the fleet waits for 20 s."""
ROOM_BYTES = 64 * 1024
"""What a Redis whose memory is full has left."""
PERMISSIONS = (
    ("-@write",),
    ("-@read",),
    ("-@scripting",),
    ("-@pubsub", "resetchannels"),
    ("-@all", "+acl", "+hello", "+client|setinfo"),
)
RESTORED = ("on", "nopass", "~*", "&*", "+@all")


class RedisFaults:
    """Kinds of faults; the names of the methods are those of the kinds."""

    fleet: Fleet
    rng: random.Random

    @contextlib.contextmanager
    def _admin(self) -> Iterator[Any]:
        """Connect past the proxy."""
        with redis.Redis.from_url(self.fleet.store.url, protocol=2, socket_timeout=30.0) as client:
            yield client

    async def _command(self, *words: Any) -> Any:
        def run() -> Any:
            with self._admin() as client:
                return client.execute_command(*words)

        return await asyncio.to_thread(run)

    async def _pause(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.5, SHORT_OF_PATIENCE_S))

    async def cut_redis(self) -> None:
        """Reset all connections."""
        self.fleet.proxy.cut()

    async def stall_redis(self) -> None:
        """Let nothing through for a while, then everything."""
        async with self.fleet.proxy.stalled():
            await asyncio.sleep(self.rng.uniform(0.3, 4.0))

    async def slow_redis(self) -> None:
        """Delay every message."""
        async with self.fleet.proxy.slow(self.rng.uniform(0.02, 0.1)):
            await asyncio.sleep(self.rng.uniform(1.0, 3.0))

    async def lose_redis(self) -> None:
        """Refuse connections for a while."""
        async with self.fleet.proxy.away():
            await asyncio.sleep(self.rng.uniform(1.0, SHORT_OF_PATIENCE_S))

    async def outlast_patience(self) -> None:
        """Stay away for longer than the fleet waits: streams end, and their clients come again."""
        async with self.fleet.proxy.away():
            await asyncio.sleep(self.rng.uniform(21.0, 26.0))

    async def restart_redis(self) -> None:
        """Kill the server, and start it again from its append-only file."""
        self.fleet.store.kill()
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        # A file of many minutes takes long to load from a busy disk.
        await asyncio.to_thread(self.fleet.store.start, LOADED_S)

    async def demote_redis(self) -> None:
        """Make it a replica of a master that is not there, then a master again."""
        serves_stale = self.rng.choice(("yes", "no"))
        await self._command("CONFIG", "SET", "replica-serve-stale-data", serves_stale)
        await self._command("REPLICAOF", "127.0.0.1", "1")
        await self._pause()
        await self._command("REPLICAOF", "NO", "ONE")

    async def fill_redis(self) -> None:
        """Set its limit of memory just above what it uses."""
        used = (await self._command("INFO", "memory"))["used_memory"]
        await self._command("CONFIG", "SET", "maxmemory", used + ROOM_BYTES)
        await self._pause()
        await self._command("CONFIG", "SET", "maxmemory", 0)

    async def want_replicas(self) -> None:
        """Have it refuse writes for want of replicas."""
        await self._command("CONFIG", "SET", "min-replicas-to-write", 1)
        await self._pause()
        await self._command("CONFIG", "SET", "min-replicas-to-write", 0)

    async def change_permissions(self) -> None:
        """Take some commands from everybody, and give them back."""
        await self._command("ACL", "SETUSER", "default", *self.rng.choice(PERMISSIONS))
        await self._pause()
        await self._command("ACL", "SETUSER", "default", *RESTORED)

    async def pause_clients(self) -> None:
        """CLIENT PAUSE, for writes or for all commands."""
        pause_ms = int(1000 * self.rng.uniform(0.5, SHORT_OF_PATIENCE_S))
        await self._command("CLIENT", "PAUSE", pause_ms, self.rng.choice(("WRITE", "ALL")))
        await asyncio.sleep(pause_ms / 1000)

    async def kill_connections(self) -> None:
        """CLIENT KILL, by type or by id, once or several times."""
        kill = self.rng.choice((_kill_normal, _kill_subscribers, self._kill_some))
        for _ in range(self.rng.randint(1, 4)):
            await asyncio.to_thread(self._with_admin, kill)
            await asyncio.sleep(self.rng.uniform(0.1, 1.0))

    def _with_admin(self, act: Callable[[Any], None]) -> None:
        with self._admin() as client:
            act(client)

    def _kill_some(self, client: Any) -> None:
        for connection in client.client_list():
            if self.rng.random() < 0.4:
                with contextlib.suppress(redis.ResponseError):  # it has gone by itself
                    client.execute_command("CLIENT", "KILL", "ID", connection["id"])

    async def forget_scripts(self) -> None:
        """SCRIPT FLUSH."""
        await self._command("SCRIPT", "FLUSH")


def _kill_normal(client: Any) -> None:
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _kill_subscribers(client: Any) -> None:
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
