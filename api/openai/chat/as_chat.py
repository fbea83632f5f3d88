"""Other APIs' requests that run as the chat completion which means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.access.dependencies import services_of
from api.access.resumption import Resumption, resumption_of
from api.http.middleware import record_of
from api.jobs.generation import Generation
from api.openai.chat import tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from api.openai.schema import ChatRequest
    from penstock.contract.job import Generate
    from penstock.contract.worker import ModelCard


async def generation_of(
    request: Request,
    card: ModelCard,
    chat: ChatRequest,
    work: Generate,
    *,
    blamed: Callable[[str | None], str | None],
    detached: bool = False,
) -> Generation:
    """Return the generation of a chat, not submitted yet.

    `blamed` gives the request's own name of a chat completion's field. A request with an
    `Idempotency-Key` is the same job again, told from its beginning: its events are not the job's.

    :raises PenstockError: as `Generation.of`.
    """
    repeated = resumption_of(request)
    generation = await Generation.of(
        services_of(request),
        record_of(request),
        card,
        [work],
        prompt_param=blamed("messages") or "messages",
        priority=chat.priority,
        resumption=Resumption(repeated.key) if repeated else None,
        detached=detached,
    )
    generation.fault_params = {
        part: blamed(param) or param for part, param in tools.fault_params(chat).items()
    }
    return generation
