"""The body of a completion request, and what it requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from api.access.dependencies import services_of
from api.http.json_body import read_object, validated
from api.http.record import record_of
from api.http.resumption import resumption_of
from api.openai import unsupported
from api.openai.chat.tool_forms import without_unknown
from api.openai.schema import ChatRequest, CompletionRequest, GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from api.http.resumption import Resumption
    from api.http.warnings import Warnings

Asked = TypeVar("Asked", bound=GenerationRequest)


def chat_request(body: dict[str, Any], warnings: Warnings) -> ChatRequest:
    """Return what a chat completion's body asks for, without what this server does not run.

    :raises BadRequest: it is no such body, or asks for something that is refused.
    """
    unsupported.CHAT.apply(body, ChatRequest.model_fields, warnings)
    return validated(without_unknown(body, warnings), ChatRequest)


def completion_request(body: dict[str, Any], warnings: Warnings) -> CompletionRequest:
    """Return what a completion's body asks for, without what this server does not run.

    :raises BadRequest: it is no such body, or asks for something that is refused.
    """
    unsupported.COMPLETION.apply(body, CompletionRequest.model_fields, warnings)
    return validated(body, CompletionRequest)


async def read_request(
    request: Request, reading: Callable[[dict[str, Any], Warnings], Asked]
) -> tuple[Asked, Resumption | None]:
    """Return the parsed request, and whether it repeats an earlier one.

    A repeatable request has a seed, so that a lost job generates the same text again.

    :raises BadRequest: as `reading`.
    """
    record = record_of(request)
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    record.note_session(body.get("prompt_cache_key"))
    repeated = resumption_of(request)
    if repeated and body.get("seed") is None:
        body["seed"] = repeated.seed(record.tenant)
    return reading(body, record.warnings), repeated
