"""What one request costs its key: estimated before, counted after, and written down."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from api.access.keys import admit
from api.http.disconnect import CLIENT_GONE
from penstock.contract.job import (
    ChatPrompt,
    FillPrompt,
    PairPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from penstock.errors import PenstockError
from penstock.transport.accounts import usage_log
from penstock.transport.accounts.quotas import Taken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.http.record import RequestRecord
    from api.services import Services
    from penstock.contract.events import Usage
    from penstock.contract.job import Job
    from penstock.contract.worker import ModelCard

logger = logging.getLogger("penstock.api")

BYTES_A_TOKEN: Final = 4
"""An estimate for limits, the queue's bound and fair shares; the worker counts for real."""
TOKENS_AN_IMAGE: Final = 576
"""Likewise: LLaVA 1.5's; models that follow an image's size take from dozens to thousands."""

LEFT: Final = "cancelled"
"""The outcome of an unfinished generation: a client, an operator or an error ended it."""


def prompt_tokens(prompt: Prompt) -> int:
    """Return about how many tokens a prompt has."""
    match prompt:
        case TokenPrompt():
            return len(prompt.token_ids)
        case TextPrompt():
            return len(prompt.text) // BYTES_A_TOKEN + len(prompt.images) * TOKENS_AN_IMAGE
        case PairPrompt():
            return (len(prompt.first) + len(prompt.second)) // BYTES_A_TOKEN
        case FillPrompt():
            return (len(prompt.before) + len(prompt.after)) // BYTES_A_TOKEN
        case ChatPrompt():
            text = sum(len(str(m.get("content", ""))) for m in prompt.messages) // BYTES_A_TOKEN
            return text + len(prompt.images) * TOKENS_AN_IMAGE


class Ledger:
    """The account of one generation. Owned by the request's task."""

    def __init__(
        self,
        services: Services,
        record: RequestRecord,
        card: ModelCard,
        jobs: Sequence[Job],
        choices: int,
    ) -> None:
        self.outcome = LEFT
        self._services = services
        self._record = record
        self._card = card
        self._jobs = tuple(jobs)
        self._choices = choices
        self._estimate = sum(job.cost_tokens for job in jobs)
        self._taken = Taken()
        self._usages: dict[int, Usage] = {}
        self._started_s = time.monotonic()

    @classmethod
    async def opened(
        cls,
        services: Services,
        record: RequestRecord,
        card: ModelCard,
        jobs: Sequence[Job],
        choices: int,
    ) -> Ledger:
        """Return the account of a request that its key's limits admit.

        :raises RateLimited, QuotaExceeded, StoreUnavailable: see `api.access.keys.admit`.
        """
        ledger = cls(services, record, card, jobs, choices)
        ledger._taken = await admit(services, record, ledger._estimate)
        return ledger

    def finished(self, position: int, usage: Usage) -> None:
        """Count a sequence that ended well."""
        self._usages[position] = usage

    async def close(self, completion_tokens: int) -> None:
        """Settle with the key's limits, and write the usage log."""
        prompts = [self._prompt(position) for position in range(0, len(self._jobs), self._choices)]
        prompt = sum(tokens for tokens, _ in prompts)
        row = usage_log.UsageRow(
            time=usage_log.now(),
            key=self._record.tenant,
            key_name=self._record.caller.key_name,
            model=self._card.name,
            queue=self._card.queue,
            outcome=self._ended_as(),
            prompt_tokens=prompt,
            cached_tokens=sum(cached for _, cached in prompts),
            completion_tokens=completion_tokens,
            answers=len(self._usages),
            duration_s=round(time.monotonic() - self._started_s, 3),
            request_id=self._record.request_id,
            endpoint=self._record.path,
        )
        services, card = self._services, self._record.caller.card
        await services.usage.add(row)
        if card is None:
            return
        try:
            used = prompt + completion_tokens
            await services.limits.settle(card, used - self._estimate)
            await services.quotas.settle(self._taken, used - self._estimate)
        except (PenstockError, RedisError, OSError) as error:
            logger.warning("%s is charged what was estimated: %s", self._record.request_id, error)

    def _ended_as(self) -> str:
        """Return the outcome; of what was left because writing it failed, that error's code."""
        code = self._record.error_code
        return code if self.outcome == LEFT and code not in {"", CLIENT_GONE} else self.outcome

    def _prompt(self, first: int) -> tuple[int, int]:
        """Return the tokens of the prompt of job number `first`, and how many were cached.

        Nothing is known of a sequence that did not end well; what never ran has cost nothing.
        """
        for position in range(first, first + self._choices):
            if position in self._usages:
                usage = self._usages[position]
                return usage.prompt_tokens, usage.cached_tokens
        return 0, 0
