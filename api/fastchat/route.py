"""What all of FastChat's routes share: authentication, bodies, and errors as FastChat has them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.access.browsers import check_origin
from api.access.dependencies import authenticated, services_of
from api.fastchat.errors import ErrorCode, Refusal, error_object
from api.fastchat.wire import END, STREAM_PATH
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.record import record_of
from api.http.unread_body import LEAVES_BODY, LingeringResponse
from penstock.errors import (
    InvalidParameter,
    NotAuthenticated,
    NotPermitted,
    PenstockError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from starlette.requests import Request

Schema = TypeVar("Schema", bound=BaseModel)

VOUCHED_PREFIX: Final = "/r/"


class FastChatRoute(APIRoute):
    """Answers an error with status 200 and FastChat's object, as its clients expect.

    FastChat's own programs send no key. Where keys are set, these routes ask for one too, unless
    `PENSTOCK_FASTCHAT_OPEN` declares that only trusted programs reach their port.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            record = record_of(request)
            try:
                await self.admit(request)
                return await handler(request)
            except Refusal as refusal:
                record.error_code = refusal.error.code
                return error_response(self.path, error_object(refusal))
            except PenstockError as error:
                record.error_code = error.code
                answer = error_response(self.path, error_object(error))
                return LingeringResponse(answer) if isinstance(error, LEAVES_BODY) else answer

        return handle

    async def admit(self, request: Request) -> None:
        """Let a request in.

        :raises Refusal: it has no key, or a wrong one.
        :raises NotPermitted: it comes from a page of another site.
        """
        settings = services_of(request).settings
        if settings.fastchat_open:
            check_origin(request.headers, settings)
        else:
            await _authenticate(request)


def error_response(path: str, content: dict[str, Any]) -> Response:
    """Return an object as a path's clients read it: whole, or as a stream of one."""
    if path == STREAM_PATH:
        return Response(msgspec.json.encode(content) + END)
    return json_response(content)


class VouchedRoute(FastChatRoute):
    """Lets a FastChat worker in whose controller address has the token in its path.

    It can send nothing else that identifies it. For one with a wrong token there is no controller:
    status 403, at which FastChat's worker ends, where an error of FastChat's own making would leave
    it running unseen.
    """

    async def admit(self, request: Request) -> None:
        """Compare the token.

        :raises HTTPException: 403
        """
        token = services_of(request).settings.fastchat_worker_token
        given = request.path_params["token"]
        if not token or not secrets.compare_digest(given.encode(), token.encode()):
            record_of(request).error_code = NotPermitted.code
            raise HTTPException(403, "not a registration token of this fleet")


async def _authenticate(request: Request) -> None:
    try:
        await authenticated(request)
    except NotAuthenticated as error:
        given = request.headers.get("authorization", "")
        code = ErrorCode.INCORRECT_AUTH_KEY if given else ErrorCode.INVALID_AUTH_KEY
        raise Refusal(error, code) from error


async def read(request: Request, schema: type[Schema]) -> Schema:
    """Return the body as `schema`.

    :raises Refusal: it is not JSON, or a field is missing or of the wrong type.
    :raises BodyTooLarge:
    """
    try:
        return await read_json(request, schema, services_of(request).settings.max_body_bytes)
    except InvalidParameter as error:
        raise Refusal(error, ErrorCode.VALIDATION_TYPE_ERROR) from error
