"""Other APIs' requests, translated into chat completions that mean the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from api.access.dependencies import services_of
from api.http.record import record_of
from api.http.resumption import Resumption, resumption_of
from api.jobs.generation import Generation
from api.openai.chat.best_of import Choices
from api.openai.chat.completions import works_of
from api.openai.chat.plan import ChatPlan
from api.openai.chat.request_body import chat_request, completion_request
from penstock.errors import BadRequest, UnknownObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from api.http.warnings import Warnings
    from api.openai.chat_images import ChatImages
    from api.openai.schema import ChatRequest
    from penstock.contract.worker import ModelCard


async def plan_of(
    body: dict[str, Any],
    card: ModelCard,
    blamed: Callable[[str | None], str | None],
    warnings: Warnings,
    gathered: Callable[[ChatRequest], Awaitable[ChatImages]],
) -> ChatPlan:
    """Return the plan of a chat completion's body that was translated from another API's.

    `blamed` returns the original request's name for a chat completion's field; `gathered` returns
    what collects the images (`image_sources.images_of_chat`).

    :raises BadRequest: as a chat completion would; `param` is the original request's field.
    """
    try:
        asked = chat_request(body, warnings)
        plan = ChatPlan.of(asked, card, await gathered(asked))
    except (BadRequest, UnknownObject) as error:
        error.param = blamed(error.param)
        raise
    for text in plan.unenforced:
        warnings.add(text)
    return replace(plan, blame=plan.blame.renamed(blamed))


async def generation_of(
    request: Request, card: ModelCard, plan: ChatPlan, *, detached: bool = False
) -> Generation:
    """Return the generation of a translated chat, not submitted yet.

    A request with an `Idempotency-Key` continues the same job, but is streamed from its beginning:
    its events are not numbered like the job's.

    :raises PenstockError: as `Generation.of`.
    """
    repeated = resumption_of(request)
    return await Generation.of(
        services_of(request),
        record_of(request),
        card,
        plan.works,
        blame=plan.blame,
        priority=plan.priority,
        images=plan.images,
        resumption=Resumption(repeated.key) if repeated else None,
        detached=detached,
    )


async def completion_of(
    request: Request,
    card: ModelCard,
    body: dict[str, Any],
    blamed: Callable[[str | None], str | None],
) -> Generation:
    """Return the generation of a completion's body that was translated from another API's.

    Without `max_tokens` the answer may fill the context.

    :raises PenstockError: as a completion would; `param` is the original request's field.
    """
    try:
        fields = {"max_tokens": card.context_length, **body}
        asked = completion_request(fields, record_of(request).warnings)
        works, blame = works_of(asked, card, Choices.of(asked))
    except BadRequest as error:
        error.param = blamed(error.param)
        raise
    if "max_tokens" not in body:
        works = [msgspec.structs.replace(work, fit_context=True) for work in works]
    repeated = resumption_of(request)
    return await Generation.of(
        services_of(request),
        record_of(request),
        card,
        works,
        blame=blame.renamed(blamed),
        resumption=Resumption(repeated.key) if repeated else None,
    )
