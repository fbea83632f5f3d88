"""Prepares a leased job for its engine: renders, tokenises, reads its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from celery.utils.log import get_logger

from penstock.contract.events import Failed, Tokens
from penstock.contract.job import ChatPrompt, FillPrompt, PairPrompt, TextPrompt
from penstock.contract.structure import FreeToolStructure
from penstock.engine.events import AttemptEvent
from penstock.engine.sequence import SequenceRequest
from penstock.errors import (
    BadRequest,
    EngineFailed,
    PenstockError,
    StoreUnavailable,
    UnknownModel,
    UnsupportedFeature,
)
from penstock.models.text.dialect import Reasoning
from penstock.models.text.rendering import TakesLong
from penstock.observability.logs import about
from penstock.transport.jobs import images as job_images
from penstock.transport.jobs import journal
from penstock.transport.store.connection import patiently

if TYPE_CHECKING:
    from typing import TypeGuard

    import redis

    from penstock.contract.job import Generate, Job, Prompt, Sampling
    from penstock.engine.image_inputs import ImageInputs
    from penstock.engine.sampling.constraint import Constraint
    from penstock.engine.sequence import Adapter
    from penstock.settings import Settings
    from penstock.transport.jobs.queue import Claim
    from workers.serving.claimed_jobs import ClaimedJob
    from workers.serving.hooks import Hooks
    from workers.serving.served_queue import ServedQueue, Tokenizer

logger = get_logger(__name__)


class JournalLost(Exception):
    """A part of a job's journal is missing: it was deleted."""


class Preparation:
    """Prepares jobs, in any thread; one that cannot be served becomes a `Failed` event."""

    def __init__(self, *, store: redis.Redis, settings: Settings, hooks: Hooks) -> None:
        self._store = store
        self._patience_s = settings.redis_patience_s
        self._answer_drafts = settings.answer_drafts
        self._by_tenant = settings.kv_sharing == "tenant"
        self._hooks = hooks

    def prepared(self, claimed: ClaimedJob) -> SequenceRequest | None:
        """Return the engine's request; None for a job that failed or was lost.

        :raises TakesLong: rendering its template takes too long for the calling thread.
        """
        job = claimed.claim.job
        with about(request_id=job.request_id, job_id=job.id, queue=job.queue):
            try:
                return self._prepare(claimed)
            except (BadRequest, EngineFailed, UnknownModel, job_images.ImageLost) as error:
                self._fail(claimed, error)
            except JournalLost as error:
                self._fail(claimed, StoreUnavailable(str(error)))
            except (StoreUnavailable, MemoryError) as error:
                # Its lease runs out, and a worker that has Redis and memory by then claims it.
                logger.warning("Job %s is left to its lease: %s", job.id, error)
                self._hooks.lose(claimed)
            except TakesLong:
                raise
            except Exception as error:
                logger.exception("Job %s could not be prepared", job.id)
                self._fail(claimed, EngineFailed(f"the prompt could not be prepared: {error}"))
            return None

    def _prepare(self, claimed: ClaimedJob) -> SequenceRequest:
        """Make the engine's request, with the tokens of earlier attempts."""
        job, work = claimed.claim.job, claimed.claim.job.work
        token_types: list[int] = []
        images = None
        if has_images(work.prompt):
            prompt_token_ids, images = self._with_images(work.prompt, claimed.served)
        else:
            prompt_token_ids, token_types = _encoded(work.prompt, claimed.served.tokenizer)
        echo_text = _echo_text(work, claimed.served, prompt_token_ids) if work.echo else ""
        reasoning = claimed.served.tokenizer.reasoning(work.prompt, prompt_token_ids)
        constraint = _constraint(work.sampling, claimed.served, reasoning)
        if reasoning is Reasoning.OPENED:
            echo_text = claimed.served.card.reasoning[0]  # so that the answer's text is complete
        return SequenceRequest(
            job_id=job.id,
            attempt_id=claimed.attempt_id,
            prompt_token_ids=prompt_token_ids,
            sampling=_fitted(work, len(prompt_token_ids), claimed.served),
            generated_token_ids=self._generated(claimed.claim),
            echo_text=echo_text,
            priority=job.priority,
            joins_prompt=work.echo or _joins(work.prompt),
            constraint=constraint,
            embeds=work.embed,
            token_types=token_types,
            scores_prompt=work.echo and work.sampling.logprobs is not None,
            stop_tokens=claimed.served.tokenizer.tokens_of(work.sampling.stop),
            images=images,
            scope=self._scope(job.tenant),
            cache_owner=job.tenant if self._by_tenant else "",
            head=next((head.digest for head in reversed(job.heads) if head.kept), ""),
            adapter=_adapter(job, claimed.served),
        )

    def _scope(self, tenant: str) -> str:
        """Return whose answers a tenant's are drafted from; empty: none."""
        if self._answer_drafts == "tenant":
            return f"tenant:{tenant}"
        return "" if self._answer_drafts == "off" else "shared"

    def _with_images(
        self, prompt: ChatPrompt | TextPrompt, served: ServedQueue
    ) -> tuple[list[int], ImageInputs]:
        """Return the token ids and the images of a prompt that has some.

        :raises UnsupportedFeature: the model takes none.
        """
        if served.vision is None:
            raise UnsupportedFeature(f"{served.card.name} takes text only", param="messages")
        return served.vision(prompt, job_images.fetch(self._store, prompt.images, self._patience_s))

    def _generated(self, claim: Claim) -> tuple[int, ...]:
        """Return the token ids of earlier attempts from the journal, `claim.next_index` of them.

        :raises JournalLost: it has fewer.
        """
        token_ids: list[int] = []
        while len(token_ids) < claim.next_index:
            after = len(token_ids) - 1
            page = patiently(
                lambda after=after: journal.read(
                    self._store, claim.job.queue, claim.job.id, after=after
                ),
                self._patience_s,
            )
            tokens = [event for event in page if isinstance(event, Tokens)]
            if not tokens or tokens[0].index != len(token_ids):
                raise JournalLost(
                    f"the journal holds {len(token_ids)} of {claim.next_index} tokens of this job"
                )
            token_ids += [token_id for event in tokens for token_id in event.token_ids]
        return tuple(token_ids)

    def _fail(self, claimed: ClaimedJob, error: PenstockError) -> None:
        event = Failed(
            claimed.claim.job.id,
            claimed.claim.next_index,
            code=error.code,
            message=error.message,
            param=error.param or "",
        )
        self._hooks.publish([AttemptEvent(claimed.attempt_id, event)])


def has_images(prompt: Prompt) -> TypeGuard[ChatPrompt | TextPrompt]:
    """Return whether a prompt is a chat or a text with images."""
    return isinstance(prompt, ChatPrompt | TextPrompt) and bool(prompt.images)


def _adapter(job: Job, served: ServedQueue) -> Adapter | None:
    """Return a job's adapter; None for the model as it is.

    :raises UnknownModel: this worker does not have it.
    """
    if job.adapter is None:
        return None
    if served.adapters is None:
        raise UnknownModel(f"{served.card.name} takes no adapters at this worker", param="model")
    return served.adapters.get(job.adapter)


def _constraint(sampling: Sampling, served: ServedQueue, reasoning: Reasoning) -> Constraint | None:
    if sampling.structure is None:
        return None
    try:
        with served.compiling:
            return served.tokenizer.constrain(sampling.structure, reasoning)
    except BadRequest as error:
        if isinstance(sampling.structure, FreeToolStructure):  # the request does not insist on it
            logger.warning("A custom tool's grammar is not enforced: %s", error.message)
            return None
        error.param = "structure"
        raise


def _encoded(prompt: Prompt, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return a prompt's token ids and, for a pair, which of the texts each belongs to."""
    if isinstance(prompt, PairPrompt):
        return tokenizer.encode_pair(prompt)
    return tokenizer.encode(prompt), []


def _joins(prompt: Prompt) -> bool:
    """Whether the answer continues the prompt's text; a chat's answer is a text of its own."""
    if isinstance(prompt, TextPrompt):
        return prompt.add_special_tokens
    return not isinstance(prompt, ChatPrompt)


def _fitted(work: Generate, prompt_tokens: int, served: ServedQueue) -> Sampling:
    """Return the sampling with the prompt's own endings, and `max_tokens` cut if `fit_context`."""
    sampling = work.sampling
    if isinstance(work.prompt, FillPrompt):
        endings = (*sampling.stop_token_ids, *served.tokenizer.fill_endings)
        sampling = msgspec.structs.replace(sampling, stop_token_ids=endings)
    room = min(served.card.context_length, served.card.kv_cache_tokens) - prompt_tokens
    if not work.fit_context or sampling.max_tokens is None or not 0 < room < sampling.max_tokens:
        return sampling
    return msgspec.structs.replace(sampling, max_tokens=room)


def _echo_text(work: Generate, served: ServedQueue, prompt_token_ids: list[int]) -> str:
    prompt = work.prompt
    if isinstance(prompt, TextPrompt):
        return prompt.text
    if isinstance(prompt, FillPrompt):
        return prompt.before
    if isinstance(prompt, ChatPrompt):
        return served.tokenizer.render(prompt)
    return served.tokenizer.decode(prompt_token_ids)
