"""What jobs used whose API process died before they ended: rows of the usage log, by another one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from penstock.contract.events import Finished, Usage
from penstock.errors import PenstockError
from penstock.transport.accounts import usage_log

if TYPE_CHECKING:
    from api.services import Services
    from penstock.transport.jobs.unclaimed_endings import UnclaimedEnding

logger = logging.getLogger("penstock.api")

SHORTEST_WAIT_S: Final = 1.0
"""A living process may lose its connection for a moment."""
LONGEST_PAUSE_S: Final = 10.0


async def account_forever(services: Services) -> None:
    """Account for such jobs of every queue, once their clients have had the time to come back."""
    settings = services.settings
    wait_s = max(settings.resume_grace_s, SHORTEST_WAIT_S)
    while settings.usage_log_rows:
        await asyncio.sleep(min(wait_s, LONGEST_PAUSE_S))
        try:
            for served in services.registry.known():
                await _account(services, served.card.queue, wait_s)
        except PenstockError as error:  # Redis is away; the registry has logged it
            logger.debug("usage of dead processes: %s", error)
        except Exception:
            logger.exception("usage of dead processes")


async def _account(services: Services, queue: str, least_age_s: float) -> None:
    endings = await services.unheard.take(queue, least_age_s)
    names = await services.keyring.names() if endings else {}
    for ending in endings:
        await services.usage.add(_row(ending, names.get(ending.job.tenant, "")))
        await services.unheard.forget(queue, ending.job.id)
        logger.warning(
            "job %s of request %s: its API process died", ending.job.id, ending.job.request_id
        )


def _row(ending: UnclaimedEnding, key_name: str) -> usage_log.UsageRow:
    """Return a job's row; what of a request was lost with its process is the path that it asked."""
    job, end = ending.job, ending.end
    ok = isinstance(end, Finished)
    usage = end.usage if isinstance(end, Finished) else Usage(0, end.index)
    return usage_log.UsageRow(
        time=usage_log.format_time(ending.ended_ms),
        key=job.tenant,
        key_name=key_name,
        model=job.model,
        queue=job.queue,
        outcome="ok" if ok else end.code,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        answers=int(ok),
        duration_s=round((ending.ended_ms - job.created_ms) / 1000, 3),
        request_id=job.request_id,
    )
