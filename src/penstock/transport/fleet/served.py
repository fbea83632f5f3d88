"""Queues and the workers that serve them, as the registry shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.contract.worker import ModelCard, WorkerCard, WorkerLoad

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Served(msgspec.Struct, frozen=True):
    """One queue that serves a model.

    `workers` are the live ones; there are none in the grace time after the last one went. `load`
    sums theirs, `slots` too. `waiting_jobs` are on the queue. `seen_s` is Unix time by Redis's clock.
    """

    card: ModelCard
    workers: tuple[WorkerCard, ...]
    load: WorkerLoad
    waiting_jobs: int = 0
    seen_s: float = 0.0
    slots: int = 0


def by_name(served: Iterable[Served]) -> dict[str, list[Served]]:
    """Sort queues by their model's name, its aliases and their own names."""
    found: dict[str, list[Served]] = {}
    for one in served:
        for name in {one.card.name, one.card.queue, *one.card.aliases}:
            found.setdefault(name, []).append(one)
    return found


def _sum(loads: Sequence[WorkerLoad]) -> WorkerLoad:
    """Add the loads of a queue's workers up; use of KV and step time are means."""
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
    )


def by_queue(workers: Iterable[WorkerCard]) -> dict[str, list[WorkerCard]]:
    """Sort workers by what they serve; with many of both, nobody may look for each in each."""
    found: dict[str, list[WorkerCard]] = {}
    for worker in workers:
        for queue in {model.queue for model in worker.models}:
            found.setdefault(queue, []).append(worker)
    return found


def serve(last: ModelCard, workers: Sequence[WorkerCard], waiting: int, seen_s: float) -> Served:
    """Return what a queue's live workers amount to; `last` is the card announced last."""
    queue = last.queue
    return Served(
        card=last,
        workers=tuple(workers),
        load=_sum([worker.loads.get(queue, WorkerLoad()) for worker in workers]),
        waiting_jobs=waiting,
        seen_s=seen_s,
        slots=sum(m.slots for worker in workers for m in worker.models if m.queue == queue),
    )
