"""The jobs that a request's works become."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from api.access.ledger import prompt_tokens
from api.jobs.heads import heads_of
from penstock.contract.job import Head, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.http.record import RequestRecord
    from api.http.resumption import Resumption
    from api.services import Services
    from penstock.contract.job import Generate
    from penstock.contract.worker import ModelCard
    from penstock.settings import Settings

UNBOUNDED_ANSWER_TOKENS: Final = 512
"""The assumed length of an answer without `max_tokens`."""
ADAPTER_TOKENS: Final = 256
"""The prompt's tokens that take about as long to compute as an adapter takes to load."""


async def jobs_of(
    services: Services,
    record: RequestRecord,
    card: ModelCard,
    works: Sequence[Generate],
    *,
    priority: int | None,
    resumption: Resumption | None,
) -> list[Job]:
    """Return a request's jobs, one for each work; with `resumption`, under its own ids.

    :raises StoreUnavailable: the clock of the queue's Redis is unknown so far.
    """
    now_ms = await services.queue.now_ms(card.queue)
    deadline_s = record.deadline_s or services.settings.deadline_s
    return [
        Job(
            id=resumption.job_id(record.tenant, position) if resumption else uuid.uuid4().hex,
            queue=card.queue,
            model=card.name,
            work=work,
            reply=services.replies.channel,
            created_ms=now_ms,
            deadline_ms=now_ms + int(deadline_s * 1000),
            tenant=record.tenant,
            priority=record.caller.priority(priority),
            cost_tokens=cost_tokens(work, card.context_length),
            request_id=record.request_id,
            trace=record.span.traceparent if record.span else "",
            digest=resumption.digest(work) if resumption else "",
            heads=heads,
            adapter=card.adapter,
        )
        for position, (work, heads) in enumerate(
            zip(works, _heads(works, record, card, services.settings), strict=True)
        )
    ]


def _heads(
    works: Sequence[Generate], record: RequestRecord, card: ModelCard, settings: Settings
) -> list[tuple[Head, ...]]:
    """Return the heads of each work's prompt; the works of one prompt follow each other.

    None without affinity: they would not be used. An adapter is a head of its own: a worker
    that has it in memory need not load it.
    """
    if not settings.affinity_wait_ms:
        return [()] * len(works)
    session = (record.tenant, record.session) if record.session else ()
    adapter = () if card.adapter is None else (card.adapter.digest,)
    owner = (*((record.tenant,) if settings.kv_sharing == "tenant" else ()), *adapter)
    loaded = tuple(Head(digest, ADAPTER_TOKENS, kept=True) for digest in adapter)
    heads: list[tuple[Head, ...]] = []
    for number, work in enumerate(works):
        is_same = number > 0 and work.prompt is works[number - 1].prompt
        if is_same:
            heads.append(heads[-1])
        else:
            own = () if work.embed else heads_of(work.prompt, *owner, session=session)
            heads.append(tuple(sorted((*loaded, *own), key=lambda head: head.tokens)))
    return heads


def cost_tokens(work: Generate, context_length: int) -> int:
    """Return an estimate of a job's tokens, before its prompt is tokenised."""
    most = work.sampling.max_tokens
    answer = UNBOUNDED_ANSWER_TOKENS if most is None else most
    return max(1, min(prompt_tokens(work.prompt) + answer, context_length))
