"""The jobs of one request: from submission to their last event. Knows no protocol.

A protocol turns its request into `Generate`s, makes a `Generation` of them, and turns the events
that come out into its own frames:

    generation = Generation.of(services, record, card, works)
    async with aclosing(generation.events()) as events:
        async for item in events:        # None: nothing happened for settings.keepalive_s
            ...

The events end after each job's terminal event. An event that says that a job failed is raised as
the error that it names. Leaving the loop early (the client went, an error) cancels what runs.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from api.access.ledger import Ledger, prompt_tokens
from api.http.errors import internal_error, known
from api.jobs.placement import FASTCHAT, Placing
from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.contract.job import Generate, Job
from penstock.errors import (
    BadRequest,
    StoreUnavailable,
    UnknownJob,
    UnsupportedFeature,
    from_code,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from api.access.resumption import Resumption
    from api.http.middleware import RequestRecord
    from api.services import Services
    from penstock.contract.events import Event, PositionLogprobs
    from penstock.contract.worker import ModelCard

UNBOUNDED_ANSWER_TOKENS: Final = 512
"""What an answer without `max_tokens` is taken to weigh."""
JOBS_HEADER: Final = "x-penstock-jobs"
CAPABILITY: Final = "generate"
MERGED_EVENTS: Final = 64
"""Events of several jobs that may wait for their one client."""

Item = tuple[int, Tokens | Finished] | None


class Generation:
    """The jobs of one request, one a sequence. Owned by the request's task."""

    def __init__(
        self,
        services: Services,
        record: RequestRecord,
        card: ModelCard,
        jobs: Sequence[Job],
        *,
        ledger: Ledger,
        prompt_param: str,
        resumption: Resumption | None = None,
        detached: bool = False,
    ) -> None:
        self.card = card
        self._ledger = ledger
        self._resumption = resumption
        self._detached = detached
        self._placing = Placing(services, card, jobs, resumption)
        self._prompt_param = prompt_param
        self.fault_params: Mapping[str, str] = {}
        """The request's names for parts of a job that the worker may find at fault."""
        self.from_start = False
        """Whether events that the client has seen already are wanted again."""
        self.hidden_token_ids: frozenset[int] = frozenset()
        """Tokens of no text, an answer's endings, whose log probabilities are not shown."""
        self._services = services
        record.queue, record.job_ids = card.queue, tuple(job.id for job in jobs)
        self._meter = record.meter = services.telemetry.meter(card.name, card.device)

    @classmethod
    async def of(
        cls,
        services: Services,
        record: RequestRecord,
        card: ModelCard,
        works: Sequence[Generate],
        *,
        prompt_param: str,
        priority: int | None = None,
        choices: int = 1,
        resumption: Resumption | None = None,
        detached: bool = False,
    ) -> Generation:
        """Return the generation of `works`, not submitted yet, but taken from the key's limits.

        `choices` works each have the same prompt.

        `prompt_param` is the field that an error of the prompt is blamed on. With `resumption`,
        jobs that an earlier request of the same key has made are taken up again. The jobs of a
        `detached` generation are not cancelled when it is left.

        :raises UnsupportedFeature: text is asked of a model that generates none.
        :raises RateLimited, QuotaExceeded, StoreUnavailable: see `Ledger.opened`.
        """
        if CAPABILITY not in card.capabilities and not all(work.embed for work in works):
            raise UnsupportedFeature(
                f"{card.name} generates no text; it is for {_purpose(card)}", param="model"
            )
        now_ms = await services.queue.now_ms()
        deadline_s = record.deadline_s or services.settings.deadline_s
        jobs = [
            Job(
                id=(resumption.job_id(record.tenant, position) if resumption else uuid.uuid4().hex),
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
            )
            for position, work in enumerate(works)
        ]
        ledger = await Ledger.opened(services, record, card, jobs, choices)
        return cls(
            services,
            record,
            card,
            jobs,
            ledger=ledger,
            prompt_param=prompt_param,
            resumption=resumption,
            detached=detached,
        )

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs, in the order of their works."""
        return self._placing.jobs

    @property
    def after(self) -> int:
        """The index of the last event that the client has seen; -1 where it begins.

        Indices are a job's own, so a request of several jobs begins anew.
        """
        return self._resumption.after if self._resumption and len(self.jobs) == 1 else -1

    @property
    def headers(self) -> dict[str, str]:
        """The response's header that names its jobs, for `/v1/jobs`."""
        return {JOBS_HEADER: ",".join(job.id for job in self.jobs)}

    async def events(self) -> AsyncGenerator[Item, None]:
        """Submit, then yield (job's position, event) until all have ended; None when silent.

        :raises PenstockError: the queue refuses, or a job fails.
        """
        meter = self._meter
        tick_s = self._services.settings.keepalive_s
        meter.start()
        try:
            if not self._placing.begun:
                self._placing.expect()
                await self.submit()
            source = self._one(tick_s) if len(self.jobs) == 1 else self._merged(tick_s)
            async with aclosing(source) as items:
                async for item in items:
                    if item is None:
                        yield None
                        continue
                    position, event = item
                    if isinstance(event, Tokens):
                        meter.tokens(position, event)
                        yield position, self._shown(event)
                        continue
                    await asyncio.sleep(0)  # of what came with it, others' tokens go out first
                    self._placing.ended(event.job_id)
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
            self._placing.forget()
            meter.stop()
            self._services.background.spawn(self._ledger.close(meter.completion_tokens))
            if not self._detached:
                self._placing.leave()

    async def submit(self) -> None:
        """Submit every job, without listening to any yet; `events` does so itself."""
        await self._placing.submit()

    def _shown(self, event: Tokens) -> Tokens:
        if not event.logprobs or not self.hidden_token_ids:
            return event
        shown = tuple(
            one for one in event.logprobs if one.chosen.token_id not in self.hidden_token_ids
        )
        return msgspec.structs.replace(event, logprobs=shown)

    def _fail(self, event: Failed) -> NoReturn:
        error = from_code(event.code, event.message)
        if isinstance(error, BadRequest):  # what the worker finds at fault is the prompt
            names = {"prompt": self._prompt_param, "messages": self._prompt_param}
            names.update(self.fault_params)
            error.param = names.get(event.param, event.param) or self._prompt_param
        raise error

    async def _one(self, tick_s: float) -> AsyncGenerator[tuple[int, Event] | None, None]:
        async with aclosing(self._follow(self.jobs[0], tick_s)) as events:
            async for event in events:
                yield None if event is None else (0, event)

    async def _merged(self, tick_s: float) -> AsyncGenerator[tuple[int, Event] | None, None]:
        """Yield the events of all jobs as they come."""
        arrived: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue(MERGED_EVENTS)
        pumps = [
            asyncio.create_task(self._pump(position, job, arrived, tick_s))
            for position, job in enumerate(self.jobs)
        ]
        left = len(pumps)
        try:
            while left:
                item = await arrived.get()
                if isinstance(item, Exception):
                    raise item
                if item is not None and not isinstance(item[1], Tokens):
                    left -= 1
                yield item
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        position: int,
        job: Job,
        arrived: asyncio.Queue[tuple[int, Event] | Exception | None],
        tick_s: float,
    ) -> None:
        try:
            async with aclosing(self._follow(job, tick_s)) as events:
                async for event in events:
                    await arrived.put(None if event is None else (position, event))
        except Exception as error:  # noqa: BLE001  raised again where the client is
            await arrived.put(error)

    def _follow(self, job: Job, tick_s: float) -> AsyncGenerator[Event | None, None]:
        if self.card.backend == FASTCHAT:
            return self._services.peers.follow(job, tick_s)
        after = -1 if self.from_start else self.after
        return self._services.replies.follow(
            job.queue,
            job.id,
            after=after,
            tick_s=tick_s,
            again=partial(self._placing.submit_again, job),
        )


def _purpose(card: ModelCard) -> str:
    return "embeddings" if "embed" in card.capabilities else "scores and rankings"


def cost_tokens(work: Generate, context_length: int) -> int:
    """Return what a job weighs before anyone has tokenised it."""
    wanted = work.sampling.max_tokens
    answer = UNBOUNDED_ANSWER_TOKENS if wanted is None else wanted
    return max(1, min(prompt_tokens(work.prompt) + answer, context_length))


@dataclass
class Answer:
    """A whole answer of one job."""

    texts: list[str] = field(default_factory=list[str])
    counts: list[int] = field(default_factory=list[int])
    """How many tokens came with each of the texts."""
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    reason: FinishReason = FinishReason.STOP
    embedding: str = ""
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(self.texts)


async def collect(generation: Generation) -> list[Answer]:
    """Return every job's whole answer, in the jobs' order.

    :raises PenstockError: one of them failed.
    """
    answers = [Answer() for _ in generation.jobs]
    async with aclosing(generation.events()) as events:
        async for item in events:
            if item is None:
                continue
            position, event = item
            answer = answers[position]
            answer.texts.append(event.text)
            answer.counts.append(len(event.token_ids) if isinstance(event, Tokens) else 0)
            answer.logprobs.extend(event.logprobs)
            if not isinstance(event, Tokens):
                answer.reason, answer.usage = event.reason, event.usage
                answer.embedding = event.embedding
    return answers


def usage_of(usages: Sequence[Usage], choices: int) -> Usage:
    """Return a request's usage: every prompt once, the answers of all `choices` of each."""
    prompts = usages[::choices]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in prompts),
    )
