"""A request's body as JSON, and as a pydantic model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from api.http.body_reading import read_body
from penstock.errors import InvalidParameter
from penstock.foreign import parse_json

if TYPE_CHECKING:
    from starlette.requests import Request

Schema = TypeVar("Schema", bound=BaseModel)


async def read_object(request: Request, limit_bytes: int) -> dict[str, Any]:
    """Return the body's JSON object.

    :raises InvalidParameter: not JSON, not UTF-8, nested too deeply, or no object.
    :raises PenstockError: as `read_body`.
    """
    body = await read_body(request, limit_bytes)
    try:
        parsed: object = parse_json(body)
    except ValueError as error:
        raise InvalidParameter(f"The request's body is {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidParameter("The request's body must be a JSON object")
    return cast("dict[str, Any]", parsed)


async def read_json(request: Request, schema: type[Schema], limit_bytes: int) -> Schema:
    """Return the body as `schema`.

    :raises InvalidParameter: as `read_object`, or a field is missing, of the wrong type or out of
        range; `param` names the first one.
    """
    return validated(await read_object(request, limit_bytes), schema)


def validated(parsed: dict[str, Any], schema: type[Schema]) -> Schema:
    """Return `parsed` as `schema`.

    :raises InvalidParameter: with the first field at fault.
    """
    try:
        return schema.model_validate(parsed)
    except ValidationError as error:
        param, message = _first_fault(parsed, error)
        raise InvalidParameter(f"{param or 'body'}: {message}", param=param) from error


def _first_fault(parsed: object, error: ValidationError) -> tuple[str | None, str]:
    """Return the field and the message of the first error.

    If a value fits none of several types, pydantic reports what is wrong with each: take the one
    that got furthest into the value.
    """
    faults: list[tuple[str, str]] = []
    for fault in error.errors(include_url=False):
        param = fault.get("ctx", {}).get("param")
        if param is None:
            param = _param(parsed, fault["loc"], missing=fault["type"] == "missing")
        faults.append((param, fault["msg"]))
    first, _ = faults[0]
    param, message = max(
        (fault for fault in faults if fault[0].startswith(first)), key=lambda fault: len(fault[0])
    )
    return param or None, message


def _param(parsed: object, location: tuple[int | str, ...], *, missing: bool) -> str:
    """Return `messages[0].role` for pydantic's location.

    pydantic puts the tags of unions between the names; what does not lead into the body is such
    a tag (or, last, the name of a field that is missing).
    """
    path = ""
    here = parsed
    for position, part in enumerate(location):
        if isinstance(here, dict) and part in here:
            here = cast("dict[object, object]", here)[part]
        elif isinstance(here, list) and isinstance(part, int):
            here = cast("list[object]", here)[part]
        elif not (missing and position == len(location) - 1):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
