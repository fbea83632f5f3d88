"""The jobs of one request: from submission to their last event. Knows no protocol.

A protocol turns its request into `Generate`s, makes a `Generation` of them, and turns the events
that come out into its own frames:

    generation = await Generation.of(services, record, card, works, blame=Blame("prompt"))
    async with aclosing(generation.events()) as events:
        async for item in events:        # None: nothing happened for settings.keepalive_s
            ...

The events end after each job's terminal event. A job's failure is raised as the error that its
event names. Leaving the loop early (the client went, an error) cancels what runs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from api.access.ledger import Ledger
from api.http.errors import internal_error, known
from api.jobs import prompt_bounds
from api.jobs.event_ids import EventIds
from api.jobs.merging import merged
from api.jobs.requested_jobs import jobs_of
from api.jobs.unenforced import unenforced_keywords
from penstock.contract.events import Failed, Finished, Tokens
from penstock.errors import (
    BadRequest,
    StoreUnavailable,
    UnknownJob,
    UnsupportedFeature,
    from_code,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from api.carrier import Placement
    from api.http.record import RequestRecord
    from api.http.resumption import Resumption
    from api.jobs.blame import Blame
    from api.services import Services
    from penstock.contract.events import Event
    from penstock.contract.job import Generate, Job
    from penstock.contract.worker import ModelCard

JOBS_HEADER: Final = "x-penstock-jobs"
CAPABILITY: Final = "generate"

Item = tuple[int, Tokens | Finished] | None


class Generation:
    """The jobs of one request, one a sequence. Owned by the request's task."""

    def __init__(
        self,
        services: Services,
        record: RequestRecord,
        card: ModelCard,
        placement: Placement,
        *,
        ledger: Ledger,
        blame: Blame,
        ids: EventIds | None = None,
        after: int = -1,
        replayed: bool = False,
        hidden_token_ids: frozenset[int] = frozenset(),
        detached: bool = False,
    ) -> None:
        """See `of`; `after` is the index of the last event that the client has seen."""
        self.ids = ids
        """The ids of the events, if they have any: of one job, with a resumption."""
        self._services = services
        self._placement = placement
        self._ledger = ledger
        self._blame = blame
        self._after = after
        self._replayed = replayed
        self._hidden_token_ids = hidden_token_ids
        self._detached = detached
        record.queue, record.job_ids = card.queue, tuple(job.id for job in placement.jobs)
        self._meter = record.meter = services.telemetry.meter(card.name, card.device)

    @classmethod
    async def of(
        cls,
        services: Services,
        record: RequestRecord,
        card: ModelCard,
        works: Sequence[Generate],
        *,
        blame: Blame,
        priority: int | None = None,
        choices: int = 1,
        images: Mapping[str, bytes] = MappingProxyType({}),
        resumption: Resumption | None = None,
        replayed: bool = False,
        hidden_token_ids: frozenset[int] = frozenset(),
        detached: bool = False,
    ) -> Generation:
        """Return the generation of `works`, admitted by the key's limits but not submitted yet.

        Each `choices` works in a row share a prompt. `images` are those that the prompts name, by
        digest. With `resumption`, the jobs of an earlier
        request with the same key are taken up again; if `replayed`, their events come from the
        first on, also those that the client has seen. The log probabilities of
        `hidden_token_ids`, which end an answer without being part of its text, are left out. The
        jobs of a `detached` generation are not cancelled when it is left.

        :raises UnsupportedFeature: the model generates no text.
        :raises ContextOverflow: a prompt cannot fit.
        :raises Overloaded: too many read this request's answer already.
        :raises RateLimited, QuotaExceeded, StoreUnavailable: see `Ledger.opened`.
        """
        if CAPABILITY not in card.capabilities and not all(work.embed for work in works):
            raise UnsupportedFeature(
                f"{card.name} generates no text; it is for {_purpose(card)}", param="model"
            )
        for work in works:
            prompt_bounds.check(work.prompt, card, blame.prompt)
        for text in unenforced_keywords(works[0].sampling.structure if works else None):
            record.warnings.add(text)
        if resumption:
            services.replies.check_room(resumption.job_id(record.tenant, 0))
        jobs = await jobs_of(
            services, record, card, works, priority=priority, resumption=resumption
        )
        ledger = await Ledger.opened(services, record, card, jobs, choices)
        # Indices are a job's own, so a request of several jobs starts from the beginning.
        seen = resumption.seen if resumption and len(jobs) == 1 else None
        return cls(
            services,
            record,
            card,
            services.carrier(card).placement(card, jobs, resumption, images),
            ledger=ledger,
            blame=blame,
            ids=EventIds(seen) if seen else None,
            after=seen.index if seen else -1,
            replayed=replayed,
            hidden_token_ids=hidden_token_ids,
            detached=detached,
        )

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs, in the order of their works."""
        return self._placement.jobs

    @property
    def after(self) -> int:
        """The index of the last event that the client has seen; -1 if it has seen none."""
        return self._after

    @property
    def headers(self) -> dict[str, str]:
        """The response's header that names its jobs, for `/v1/jobs`."""
        return {JOBS_HEADER: ",".join(job.id for job in self.jobs)}

    async def events(self) -> AsyncGenerator[Item, None]:
        """Submit, then yield (job's position, event) until all have ended; None when silent.

        :raises PenstockError: the queue refuses, or a job fails.
        """
        meter, placement = self._meter, self._placement
        meter.start()
        try:
            if not placement.submitted:
                placement.expect()
                await self.submit()
            async with aclosing(self._lacking()) as items:
                async for item in items:
                    if item is None:
                        yield None
                        continue
                    position, event = item
                    if isinstance(event, Tokens):
                        meter.tokens(position, event)
                        yield position, self._shown(event)
                        continue
                    await asyncio.sleep(0)  # lets other streams' tokens of the same batch go first
                    if isinstance(event, Failed):
                        self._fail(event)
                    meter.finished(event)
                    self._ledger.finished(position, event.usage)
                    yield position, event
            self._ledger.outcome = "ok"
        except UnknownJob as error:
            self._ledger.outcome = StoreUnavailable.code
            raise StoreUnavailable("The job was lost: Redis has been emptied") from error
        except Exception as error:
            self._ledger.outcome = (known(error) or internal_error()).code
            raise
        finally:
            placement.unfollow()
            meter.stop()
            self._services.background.spawn(self._ledger.close(meter.completion_tokens))
            if not self._detached:
                placement.cancel()

    async def submit(self) -> None:
        """Submit every job without following any yet; `events` does so by itself.

        :raises PenstockError: see `Placement.submit`.
        """
        await self._placement.submit()

    async def _lacking(self) -> AsyncGenerator[tuple[int, Event] | None, None]:
        """Yield the jobs' events that the client has not seen, or all of them if they are replayed.

        :raises StoreUnavailable: what the client has seen is of another answer.
        """
        tick_s = self._services.settings.keepalive_s
        spoke_s = time.monotonic()
        streams = [self._placement.follow(job, tick_s=tick_s) for job in self.jobs]
        async with aclosing(merged(streams)) as items:
            async for item in items:
                if item is not None:
                    if not isinstance(item[1], Tokens):
                        self._placement.ended(item[1].job_id)
                    if self._is_hidden(item[1]):
                        if time.monotonic() - spoke_s < tick_s:
                            continue
                        item = None  # noqa: PLW2901 - an answer that is made again takes long
                spoke_s = time.monotonic()
                yield item

    def _is_hidden(self, event: Event) -> bool:
        if self.ids is None or isinstance(event, Failed):
            return False
        is_new = self.ids.is_new(event)
        return not (is_new or self._replayed)

    def _shown(self, event: Tokens) -> Tokens:
        hidden = self._hidden_token_ids
        if not event.logprobs or not hidden:
            return event
        shown = tuple(
            position for position in event.logprobs if position.chosen.token_id not in hidden
        )
        return msgspec.structs.replace(event, logprobs=shown)

    def _fail(self, event: Failed) -> NoReturn:
        error = from_code(event.code, event.message)
        if isinstance(error, BadRequest):
            error.param = self._blame.param(event.param)
        raise error


def _purpose(card: ModelCard) -> str:
    return "embeddings" if "embed" in card.capabilities else "scores and rankings"
