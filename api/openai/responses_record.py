"""A response as it is stored: the request, and how its answer came. All else follows from it."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.contract.events import Usage


class Ending(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a response ended. `pieces` are the texts of its events, as they were streamed."""

    status: str
    ended_s: int
    pieces: tuple[str, ...] = ()
    usage: Usage | None = None
    error_code: str = ""
    error_message: str = ""


class StoredResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response. `asked` holds the request's fields as they are shown again.

    `input` are the request's own items, `ancestors` the ids of the responses before it, the oldest
    first. `reader` are the fields of the `Reading` of its text.
    """

    id: str
    tenant: str
    job_id: str
    created_s: int
    asked: dict[str, Any]
    input: tuple[dict[str, Any], ...]
    ancestors: tuple[str, ...] = ()
    background: bool = False
    reader: dict[str, Any] = {}
    ending: Ending | None = None
