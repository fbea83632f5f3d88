"""The body of a completion request: as it was sent -> what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from api.access.dependencies import services_of
from api.http.json_body import read_object, validated
from api.http.record import record_of
from api.http.resumption import resumption_of
from api.openai import unsupported
from api.openai.schema import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from api.http.resumption import Resumption

Asked = TypeVar("Asked", bound=GenerationRequest)


async def read_request(
    request: Request, schema: type[Asked], refused: Mapping[str, tuple[Any, ...]]
) -> tuple[Asked, Resumption | None]:
    """Return what is asked for, and where the request repeats an earlier one.

    One that may be repeated has a seed, so that a job that was lost says the same again.

    :raises BadRequest: the body is none of `schema`, or asks for something `refused`.
    """
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    unsupported.refuse(body, refused)
    repeated = resumption_of(request)
    if repeated and body.get("seed") is None:
        body["seed"] = repeated.seed(record_of(request).tenant)
    return validated(body, schema), repeated
