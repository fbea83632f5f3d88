"""Queues and the workers that serve them, as the registry presents them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.contract.worker import ModelCard, WorkerCard, WorkerLoad, sum_of_stores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.contract.adapter import AdapterCard, LoadedAdapter


class Served(msgspec.Struct, frozen=True):
    """One queue that serves a model.

    `workers` are the live ones; empty in the grace time after the last one left. `load` and `slots`
    are sums over them. `waiting_jobs` are on the queue. `seen_s` is Unix time by Redis's clock.
    """

    card: ModelCard
    workers: tuple[WorkerCard, ...]
    load: WorkerLoad
    waiting_jobs: int = 0
    seen_s: float = 0.0
    slots: int = 0


def by_name(served: Iterable[Served]) -> dict[str, list[Served]]:
    """Group queues by their model's name, its aliases and their own names."""
    queues: dict[str, list[Served]] = {}
    for queue in served:
        for name in {queue.card.name, queue.card.queue, *queue.card.aliases}:
            queues.setdefault(name, []).append(queue)
    return queues


def with_adapters(
    served: Iterable[Served], loaded: Iterable[LoadedAdapter]
) -> dict[str, list[Served]]:
    """Return the queues of each adapter by its name: those of its base, with the adapter's card.

    A worker of an older version would answer with the base: such a queue is left out.
    """
    by_base: dict[str, list[AdapterCard]] = {}
    for adapter in loaded:
        by_base.setdefault(adapter.base, []).append(adapter.card)
    queues: dict[str, list[Served]] = {}
    for queue in served:
        card = queue.card
        cards = [model for worker in queue.workers for model in worker.models]
        if any(not one.most_adapters for one in (card, *cards) if one.queue == card.queue):
            continue
        own = {one.name: one for one in (*by_base.get(card.name, ()), *card.adapters)}
        for name, adapter in own.items():
            adapted = msgspec.structs.replace(queue, card=adapter_card(card, adapter))
            queues.setdefault(name, []).append(adapted)
    return queues


def adapter_card(base: ModelCard, adapter: AdapterCard) -> ModelCard:
    """Return the card of a model with an adapter."""
    return msgspec.structs.replace(
        base,
        name=adapter.name,
        parent=base.name,
        adapter=adapter,
        aliases=(),
        adapters=(),
        created_s=adapter.created_s or base.created_s,
    )


def _sum(loads: Sequence[WorkerLoad]) -> WorkerLoad:
    """Add up the loads of a queue's workers; KV use and step time are means."""
    if not loads:
        return WorkerLoad()
    return WorkerLoad(
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        kv_use=sum(load.kv_use for load in loads) / len(loads),
        decode_tokens_per_s=sum(load.decode_tokens_per_s for load in loads),
        prefill_tokens_per_s=sum(load.prefill_tokens_per_s for load in loads),
        step_ms=sum(load.step_ms for load in loads) / len(loads),
        generated_tokens_total=sum(load.generated_tokens_total for load in loads),
        prompt_tokens_total=sum(load.prompt_tokens_total for load in loads),
        finished_total=sum(load.finished_total for load in loads),
        preempted_total=sum(load.preempted_total for load in loads),
        prefilled_tokens_total=sum(load.prefilled_tokens_total for load in loads),
        cached_tokens_total=sum(load.cached_tokens_total for load in loads),
        store=sum_of_stores(loads),
    )


def by_queue(workers: Iterable[WorkerCard]) -> dict[str, list[WorkerCard]]:
    """Group workers by the queues that they serve, in one pass over the workers."""
    by_name: dict[str, list[WorkerCard]] = {}
    for worker in workers:
        for queue in {model.queue for model in worker.models}:
            by_name.setdefault(queue, []).append(worker)
    return by_name


def serve(last: ModelCard, workers: Sequence[WorkerCard], waiting: int, seen_s: float) -> Served:
    """Return a queue with the sums over its live workers; `last` is the card announced last."""
    queue = last.queue
    return Served(
        card=last,
        workers=tuple(workers),
        load=_sum([worker.loads.get(queue, WorkerLoad()) for worker in workers]),
        waiting_jobs=waiting,
        seen_s=seen_s,
        slots=sum(m.slots for worker in workers for m in worker.models if m.queue == queue),
    )
