"""A snapshot of the fleet from Redis: live workers and queues."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from penstock.contract.worker import WorkerCard, WorkerLoad
from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.fleet.registry import Registry
from penstock.transport.jobs.queue import JobQueue, QueueDepth
from penstock.transport.store.connection import patiently_async
from penstock.transport.store.grouped import close, connect_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from penstock.settings import Settings
    from penstock.transport.fleet.registry import Served


class QueueView(msgspec.Struct, frozen=True):
    """A queue that a live worker serves; `slots` and `load` are sums over its workers.

    `adapters` are the names that clients may ask for beside the model's.
    """

    queue: str
    model: str
    format: str
    workers: int
    slots: int
    depth: QueueDepth
    load: WorkerLoad
    adapters: tuple[str, ...] = ()


class Census(msgspec.Struct, frozen=True):
    """Live workers by id, served queues by name; groups of queues whose Redis does not answer."""

    workers: tuple[WorkerCard, ...]
    queues: tuple[QueueView, ...]
    away: tuple[str, ...] = ()


def take(settings: Settings, *, patience_s: float = 3.0) -> Census:
    """Take a snapshot.

    :raises StoreUnavailable: the home Redis does not answer within `patience_s`.
    """
    return asyncio.run(_take(settings, patience_s))


def serving(settings: Settings) -> set[tuple[int, str]]:
    """Return (process id, queue) for everything that is being served.

    :raises StoreUnavailable: Redis does not answer within 3 s.
    """
    return {
        (worker.pid, model.queue) for worker in take(settings).workers for model in worker.models
    }


async def _take(settings: Settings, patience_s: float) -> Census:
    stores = connect_groups(settings)
    try:
        # The registry tolerates an absent Redis; here it is to be an error.
        look = partial(_answers, patience_s=patience_s)
        failures = await asyncio.gather(*map(look, stores.all()))
        if failures[0] is not None:
            raise failures[0]
        away = [name for name, failure in zip(stores.groups, failures[1:], strict=True) if failure]
        registry = Registry(stores, settings)
        await registry.refresh()
        workers = tuple(sorted(registry.workers(), key=lambda worker: (worker.host, worker.pid)))
        jobs = JobQueue(stores, settings)
        served = [queue for queue in registry.known() if queue.workers]
        depths = await asyncio.gather(*(jobs.depth(queue.card.queue) for queue in served))
        adapters = registry.adapters()
        views = [
            _view(queue, depth, adapters.get(queue.card.queue, ()))
            for queue, depth in zip(served, depths, strict=True)
        ]
        views.sort(key=lambda view: view.queue)
        return Census(workers, tuple(views), tuple(away))
    finally:
        await close(stores)


async def _answers(client: redis.asyncio.Redis, patience_s: float) -> StoreUnavailable | None:
    """Return why a Redis cannot be asked; None if it can."""
    try:
        await patiently_async(lambda: client.exists(keys.WORKERS), patience_s)
    except StoreUnavailable as error:
        return error
    return None


def _view(served: Served, depth: QueueDepth, adapters: Sequence[str]) -> QueueView:
    queue = served.card.queue
    cards = [model for worker in served.workers for model in worker.models if model.queue == queue]
    return QueueView(
        queue=queue,
        model=served.card.name,
        format=served.card.format,
        workers=len(cards),
        slots=sum(card.slots for card in cards),
        depth=depth,
        load=served.load,
        adapters=tuple(adapters),
    )
