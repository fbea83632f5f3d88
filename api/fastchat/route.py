"""What all of FastChat's routes share: authentication, bodies, and errors as FastChat has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel

from api.dependencies import authenticated, services_of
from api.errors import json_response
from api.fastchat.errors import MalformedBody, error_object
from api.json_body import read_json
from api.middleware import record_of
from penstock.errors import InvalidParameter, PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

Schema = TypeVar("Schema", bound=BaseModel)


class FastChatRoute(APIRoute):
    """Answers an error with status 200 and FastChat's object, as its clients expect.

    FastChat's own programs send no key. Where keys are set, these routes ask for one too, unless
    `PENSTOCK_FASTCHAT_OPEN` says that their port is only reached by friends.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if not services_of(request).settings.fastchat_open:
                    authenticated(request)
                return await handler(request)
            except PenstockError as error:
                record_of(request).error_code = error.code
                return json_response(error_object(error))

        return handle


async def read(request: Request, schema: type[Schema]) -> Schema:
    """Return the body as `schema`.

    :raises MalformedBody: it is not JSON, or a field is missing or of the wrong type.
    :raises BodyTooLarge:
    """
    try:
        return await read_json(request, schema, services_of(request).settings.max_body_bytes)
    except InvalidParameter as error:
        raise MalformedBody(error.message, param=error.param) from error
