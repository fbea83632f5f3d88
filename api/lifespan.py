"""Creates, starts and stops the process's services; the only place where they are put together."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from api.admin.history import flush_history
from api.fastchat.carrier import FastChatCarrier
from api.fastchat.membership import Membership
from api.fastchat.peers import Peers, peers_of
from api.http.background import Background, at_work
from api.http.fetching import Fetcher
from api.jobs.queue_carrier import QueueCarrier
from api.services import Services
from penstock.contract.worker import FASTCHAT
from penstock.errors import PenstockError
from penstock.redis_addresses import HOME
from penstock.transport.accounts.keyring import Keyring
from penstock.transport.accounts.limits import Limits
from penstock.transport.accounts.quotas import Quotas
from penstock.transport.accounts.usage_log import UsageLog
from penstock.transport.fleet.adapters import AdapterStore
from penstock.transport.fleet.registry import Registry
from penstock.transport.jobs.images import JobImages
from penstock.transport.jobs.missing import MissingJobs
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.jobs.reconciling import Reconciler
from penstock.transport.jobs.unclaimed_endings import UnclaimedEndings
from penstock.transport.replies.all_replies import AllReplies
from penstock.transport.store.grouped import close, connect_groups

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.aliases import Aliases
    from penstock.observability.telemetry import Telemetry
    from penstock.settings import Settings

logger = logging.getLogger("penstock.api")

IMAGE_THREADS: Final = 2
"""Threads that decode and check the images of requests: they take a core each."""

REAP_INTERVAL_S: Final = 1.0
RECONCILE_INTERVAL_S: Final = 2.0
"""How long after one look at all jobs the next one begins; one process of all does this."""
RECONCILE_LONGEST_S: Final = 30.0
FLUSH_INTERVAL_S: Final = 5.0
"""How often this process adds its figures to the fleet's."""
STOP_S: Final = 5.0
"""How long a stopping process continues to cancel the jobs of clients that it drops."""


@asynccontextmanager
async def running(
    settings: Settings, telemetry: Telemetry, aliases: Aliases
) -> AsyncGenerator[Services, None]:
    """Start every service, whether or not Redis is there; stop them in the opposite order."""
    services = _services(settings, telemetry, aliases)
    await services.replies.start()
    await services.registry.start()
    await peers_of(services).start()
    membership = Membership(services)
    await membership.start()
    try:
        chores = (
            *(_reap_forever(services, name) for name in (HOME, *services.stores.groups)),
            *(_reconcile_forever(services, one) for one in services.reconcilers.all()),
            _flush_forever(services),
        )
        async with at_work(*chores):
            yield services
    finally:
        await services.background.drain(STOP_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await flush_history(services)
                await services.usage.flush()
                for reconciler in services.reconcilers.all():
                    await reconciler.stop()
        await membership.stop()
        await peers_of(services).stop()
        await services.fetcher.close()
        services.image_threads.shutdown(wait=False, cancel_futures=True)
        await services.registry.stop()
        await services.replies.stop()
        await close(services.stores)


def _services(settings: Settings, telemetry: Telemetry, aliases: Aliases) -> Services:
    stores = connect_groups(settings)
    redis = stores.home
    queue = JobQueue(stores, settings)
    replies = AllReplies(stores, settings)
    registry = Registry(stores, settings)
    unheard = UnclaimedEndings(stores, settings)
    images = JobImages(stores, settings)
    peers = Peers(redis, settings)
    background = Background()
    return Services(
        settings=settings,
        telemetry=telemetry,
        redis=redis,
        stores=stores,
        queue=queue,
        replies=replies,
        registry=registry,
        keyring=Keyring(redis, settings),
        limits=Limits(redis, settings),
        quotas=Quotas(redis, settings),
        usage=UsageLog(redis, settings),
        unheard=unheard,
        reconcilers=stores.map(lambda client: Reconciler(client, settings)),
        images=images,
        fetcher=Fetcher(settings.image_hosts),
        image_threads=ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="images"),
        adapters=AdapterStore(redis, settings),
        missing=MissingJobs(settings.redis_patience_s),
        peers=peers,
        aliases=aliases,
        background=background,
        queue_carrier=QueueCarrier(
            queue,
            replies,
            registry,
            unheard,
            images,
            background,
            settings.resume_grace_s,
        ),
        foreign_carriers={FASTCHAT: FastChatCarrier(peers)},
    )


async def _reap_forever(services: Services, group: str) -> None:
    """Give dead workers' jobs back and end those past their deadline, for every queue of a group.

    Workers do so too; a queue without any worker depends on the API processes. A group whose Redis
    is away holds up no other.
    """
    group_of = services.settings.group_of
    while True:
        await asyncio.sleep(REAP_INTERVAL_S)
        try:
            for served in services.registry.known():
                if group_of(served.card.queue) == group:
                    await services.queue.reap(served.card.queue)
        except PenstockError as error:  # Redis is away; the registry has logged it
            logger.debug("reaper: %s", error)
        except Exception:
            logger.exception("reaper")


async def _reconcile_forever(services: Services, reconciler: Reconciler) -> None:
    """Put jobs of one Redis back whose keys were deleted.

    With very many jobs in the store, a look at all of them takes a tenth of the time at most.
    """
    took_s = 0.0
    while True:
        await asyncio.sleep(min(max(RECONCILE_INTERVAL_S, 9 * took_s), RECONCILE_LONGEST_S))
        began_s = time.monotonic()
        try:
            async for put_back in reconciler.run():
                services.telemetry.put_back(put_back)
        except PenstockError as error:  # Redis is away; the registry has logged it
            logger.debug("reconciler: %s", error)
        except Exception:
            logger.exception("reconciler")
        took_s = time.monotonic() - began_s


async def _flush_forever(services: Services) -> None:
    """Write this process's figures, usage rows and what it knows of keys every few seconds."""
    while True:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        flushes = (
            partial(flush_history, services),
            services.usage.flush,
            services.keyring.remember,
        )
        for flush in flushes:
            try:
                await flush()
            except Exception:
                logger.exception("figures of this process")
