"""Faults of a Redis that loses what it had promised to keep, or is handed what is not ours.

While such a loss is under way, an answer comes out right or ends with an error of its protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.transport import keys
from tests.chaos.fleet import QUEUE
from tests.chaos.redis_faults import LOADED_S, RedisFaults
from tests.fixtures.foreign_messages import FOREIGN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_LOST_BYTES = 200_000
OWN_KEYS = (
    *(f"{keys.queue_prefix(QUEUE)}{name}" for name in (
        "arrivals", "returned", "leases", "deadlines", "unheard", "counters", "workers", "utility",
        "tenants:5", "served:5",
    )),
    keys.WORKERS,
    keys.MODELS,
    keys.STORE,
    keys.model(QUEUE),
    QUEUE,
)  # fmt: skip


@dataclass
class Loss:
    """What Redis lost, from when to when (monotonic)."""

    kind: str
    begun_s: float
    ended_s: float = float("inf")


class LossFaults(RedisFaults):
    """Kinds of faults; the names of the methods are those of the kinds."""

    losses: list[Loss]

    @contextlib.contextmanager
    def _loss(self, kind: str) -> Iterator[None]:
        loss = Loss(kind, time.monotonic())
        self.losses.append(loss)
        try:
            yield
        finally:
            loss.ended_s = time.monotonic()

    async def flush_redis(self) -> None:
        """FLUSHALL."""
        with self._loss("flush_redis"):
            await self._command("FLUSHALL")

    async def flush_again_and_again(self) -> None:
        """FLUSHALL, several times while the same answers stream."""
        with self._loss("flush_again_and_again"):
            for _ in range(self.rng.randint(2, 6)):
                await self._command("FLUSHALL")
                await asyncio.sleep(self.rng.uniform(0.2, 1.5))

    async def lose_file(self) -> None:
        """Restart it without its append-only file."""
        with self._loss("lose_file"):
            self.fleet.store.kill()
            await asyncio.to_thread(shutil.rmtree, self.fleet.store.folder / "appendonlydir")
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            await asyncio.to_thread(self.fleet.store.start, LOADED_S, established=False)

    async def cut_file(self) -> None:
        """Restart it with the end of its append-only file gone, mostly in the midst of a command."""
        with self._loss("cut_file"):
            self.fleet.store.kill()
            await asyncio.to_thread(self._cut, self.fleet.store.folder)
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            await asyncio.to_thread(self.fleet.store.start, LOADED_S, established=False)

    def _cut(self, folder: Path) -> None:
        file = max(folder.rglob("*.incr.aof"), key=os.path.getmtime)
        size = file.stat().st_size
        os.truncate(file, max(size - self.rng.randint(1, MOST_LOST_BYTES), 0))

    async def foreign_messages(self) -> None:
        """Push what nobody of ours has sent on lists, and publish it on channels."""
        messages = self.rng.sample(sorted(FOREIGN), 6)
        await asyncio.to_thread(self._push, [_encoded(FOREIGN[name]) for name in messages])

    def _push(self, messages: list[str | bytes]) -> None:
        with self._admin() as client:
            for channel in client.pubsub_channels(f"{keys.PREFIX}:reply:*"):
                client.publish(channel, self.rng.choice(messages))
            client.publish("/0.celery.pidbox", self.rng.choice(messages))
            client.rpush(keys.tokenizer_calls(QUEUE), self.rng.choice(messages))
            for message in messages:
                self.rng.choice((client.lpush, client.rpush))(QUEUE, message)

    async def change_types(self) -> None:
        """Put a string where another of our types belongs, and take it away some time later."""
        with self._loss("change_types"):
            changed = await asyncio.to_thread(self._change)
            await asyncio.sleep(self.rng.uniform(0.3, 5.0))
            await self._command("DEL", *changed)

    async def delete_keys(self) -> None:
        """Delete two of the fleet's keys, or those of running jobs."""
        with self._loss("delete_keys"):
            await asyncio.to_thread(self._delete)

    def _delete(self) -> None:
        with self._admin() as client:
            lines = [
                one.decode() for one in client.scan_iter(f"{keys.queue_prefix(QUEUE)}waiting:*")
            ]
            client.delete(*self.rng.sample((*self._of_jobs(client), *OWN_KEYS, *lines), 2))

    def _of_jobs(self, client: Any) -> list[str]:
        jobs = [one.decode() for one in client.zrange(keys.leases(QUEUE), 0, -1)]
        return [
            key
            for job in jobs
            for key in (keys.job(QUEUE, job), keys.journal(QUEUE, job), keys.locate(job))
        ]

    def _change(self) -> list[str]:
        """Change two of the fleet's keys, or those of two running jobs."""
        with self._admin() as client:
            own = self._of_jobs(client)
            of_jobs = len(own) > 1 and self.rng.random() < 0.5
            changed = self.rng.sample(own if of_jobs else OWN_KEYS, 2)
            for key in changed:
                client.delete(key)
                client.set(key, "foreign")
        return changed


def _encoded(message: Any) -> str | bytes:
    return message if isinstance(message, str | bytes) else json.dumps(message)
