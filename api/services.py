"""What every request handler needs, made once a process."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from api.fastchat.membership import Membership
from api.fastchat.peers import Peers
from penstock.errors import PenstockError
from penstock.transport.accounts.keyring import Keyring
from penstock.transport.accounts.limits import Limits
from penstock.transport.accounts.quotas import Quotas
from penstock.transport.accounts.usage_log import UsageLog
from penstock.transport.fleet.overview import Overview
from penstock.transport.fleet.registry import Registry
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.jobs.unclaimed_endings import UnheardJobs
from penstock.transport.replies.replies import Replies
from penstock.transport.store.connection import connect_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    import redis.asyncio

    from penstock.aliases import Aliases
    from penstock.observability.telemetry import Telemetry
    from penstock.settings import Settings

logger = logging.getLogger("penstock.api")

REAP_INTERVAL_S: Final = 1.0
FLUSH_INTERVAL_S: Final = 5.0
"""How often this process adds its figures to the fleet's."""
LAST_WORDS_S: Final = 5.0
"""How long a stopping process goes on cancelling the jobs of clients that it drops."""


@dataclass
class Background:
    """Work that outlives its request: cancelling the jobs of a client that has gone."""

    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start `work`; whoever needs its result may await the task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def spawn_later(self, delay_s: float, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start `work` after a while, if this process lives as long."""
        asyncio.get_running_loop().call_later(delay_s, lambda: self.spawn(work()))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio complains of one that nobody has looked at

    async def drain(self, timeout_s: float) -> None:
        """Let what runs end, then stop the rest."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


@dataclass(frozen=True)
class Services:
    """The fleet, as this process sees it. The event loop owns all of it."""

    settings: Settings
    telemetry: Telemetry
    redis: redis.asyncio.Redis
    queue: JobQueue
    replies: Replies
    registry: Registry
    keyring: Keyring
    limits: Limits
    quotas: Quotas
    usage: UsageLog
    unheard: UnheardJobs
    peers: Peers
    aliases: Aliases
    background: Background

    async def reap_forever(self) -> None:
        """Give dead workers' jobs back and end those past their deadline, for every queue.

        Workers do so too; a queue without any worker has only us.
        """
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            try:
                for served in self.registry.known():
                    await self.queue.reap(served.card.queue)
            except PenstockError as error:  # Redis is away; the registry has said so
                logger.debug("reaper: %s", error)
            except Exception:
                logger.exception("reaper")

    async def flush_history(self) -> None:
        """Add what this process has measured to the fleet's history; while Redis is away, later."""
        counts = self.telemetry.history.take()
        if not counts:
            return
        try:
            await Overview(self.redis).add_history(counts)
        except (RedisError, OSError) as error:
            self.telemetry.history.give_back(counts)
            logger.debug("history: %s", error)

    async def flush_forever(self) -> None:
        """Flush every few seconds."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            for flush in (self.flush_history, self.usage.flush):
                try:
                    await flush()
                except Exception:
                    logger.exception("figures of this process")


@asynccontextmanager
async def running(
    settings: Settings, telemetry: Telemetry, aliases: Aliases
) -> AsyncGenerator[Services, None]:
    """Start everything, with Redis there or not; stop it in the opposite order."""
    redis = connect_async(settings)
    services = Services(
        settings=settings,
        telemetry=telemetry,
        redis=redis,
        queue=JobQueue(redis, settings),
        replies=Replies(redis, settings),
        registry=Registry(redis, settings),
        keyring=Keyring(redis, settings),
        limits=Limits(redis, settings),
        quotas=Quotas(redis, settings),
        usage=UsageLog(redis, settings),
        unheard=UnheardJobs(redis, settings),
        peers=Peers(redis, settings),
        aliases=aliases,
        background=Background(),
    )
    await services.replies.start()
    await services.registry.start()
    await services.peers.start()
    membership = Membership(services)
    await membership.start()
    chores = [
        asyncio.create_task(services.reap_forever()),
        asyncio.create_task(services.flush_forever()),
    ]
    try:
        yield services
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await services.background.drain(LAST_WORDS_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await services.flush_history()
                await services.usage.flush()
        await membership.stop()
        await services.peers.stop()
        await services.registry.stop()
        await services.replies.stop()
        await redis.aclose()
