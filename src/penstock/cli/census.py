"""One look at the fleet through Redis: who lives, what waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from penstock.contract.worker import WorkerCard, WorkerLoad
from penstock.transport import keys
from penstock.transport.connection import connect_async, patiently_async
from penstock.transport.queue import JobQueue, QueueDepth
from penstock.transport.registry import Registry

if TYPE_CHECKING:
    from penstock.settings import Settings


class QueueView(msgspec.Struct, frozen=True):
    """A queue that a live worker serves: what waits in it, and what its workers do together.

    `slots` is summed over the workers.
    """

    queue: str
    model: str
    format: str
    workers: int
    slots: int
    depth: QueueDepth
    load: WorkerLoad


class Census(msgspec.Struct, frozen=True):
    """Live workers by id, served queues by name."""

    workers: tuple[WorkerCard, ...]
    queues: tuple[QueueView, ...]


def take(settings: Settings, *, patience_s: float = 3.0) -> Census:
    """Look once.

    :raises StoreUnavailable: Redis does not answer within `patience_s`.
    """
    return asyncio.run(_take(settings, patience_s))


def serving(settings: Settings) -> set[tuple[int, str]]:
    """Return (process id, queue) of everything that is served now.

    :raises StoreUnavailable: Redis does not answer within 3 s.
    """
    return {(one.pid, model.queue) for one in take(settings).workers for model in one.models}


async def _take(settings: Settings, patience_s: float) -> Census:
    client = connect_async(settings)
    try:
        # The registry bears a Redis that is away; somebody who looks wants to be told.
        await patiently_async(lambda: client.exists(keys.WORKERS), patience_s)
        registry = Registry(client, settings)
        await registry.refresh()
        workers = tuple(sorted(registry.workers(), key=lambda one: (one.host, one.pid)))
        jobs = JobQueue(client, settings)
        names = sorted({model.queue for one in workers for model in one.models})
        depths = await asyncio.gather(*(jobs.depth(name) for name in names))
        views = [_view(name, depth, workers) for name, depth in zip(names, depths, strict=True)]
        return Census(workers, tuple(views))
    finally:
        await client.aclose()


def _view(queue: str, depth: QueueDepth, workers: tuple[WorkerCard, ...]) -> QueueView:
    cards = [model for one in workers for model in one.models if model.queue == queue]
    loads = [one.loads[queue] for one in workers if queue in one.loads]
    return QueueView(
        queue=queue,
        model=cards[0].name,
        format=cards[0].format,
        workers=len(cards),
        slots=sum(card.slots for card in cards),
        depth=depth,
        load=_together(loads),
    )


def _together(loads: list[WorkerLoad]) -> WorkerLoad:
    """Sum counts and rates; take the fullest cache and the slowest step."""
    return WorkerLoad(
        running=sum(one.running for one in loads),
        waiting=sum(one.waiting for one in loads),
        kv_use=max((one.kv_use for one in loads), default=0.0),
        decode_tokens_per_s=sum(one.decode_tokens_per_s for one in loads),
        prefill_tokens_per_s=sum(one.prefill_tokens_per_s for one in loads),
        step_ms=max((one.step_ms for one in loads), default=0.0),
        generated_tokens_total=sum(one.generated_tokens_total for one in loads),
        prompt_tokens_total=sum(one.prompt_tokens_total for one in loads),
        finished_total=sum(one.finished_total for one in loads),
        preempted_total=sum(one.preempted_total for one in loads),
    )
