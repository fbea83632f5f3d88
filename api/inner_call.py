"""A request that this process makes to itself: the same routes, checks and answers as a client's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api.access.dependencies import CALLER_KEY
from api.http.record import DEADLINE_KEY

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from api.http.caller import Caller


@dataclass
class InnerAnswer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""


async def post(
    app: ASGIApp,
    path: str,
    body: bytes,
    *,
    caller: Caller,
    headers: dict[str, str],
    deadline_s: float,
) -> InnerAnswer:
    """Post JSON to the application, for `caller`. Cancelling this is a client's going away."""
    answer = InnerAnswer()
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()  # this client stays until it is answered
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in message["headers"]
            }
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    given = {"content-type": "application/json", **headers}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": None,
        "server": None,
        CALLER_KEY: caller,
        DEADLINE_KEY: deadline_s,
    }
    await app(scope, receive, send)
    return answer
