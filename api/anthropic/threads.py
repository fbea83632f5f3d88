"""Threads, whose history Anthropic's server holds for its client; this server holds none.

A request that begins one is answered without it. One that continues it has only its last
messages: it is refused with the error at which Anthropic's SDK sends the whole history again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from penstock.errors import UnknownObject

if TYPE_CHECKING:
    from collections.abc import Mapping


class UnknownThread(UnknownObject):
    """A request continues a thread."""

    details: ClassVar[Mapping[str, str]] = {"error_code": "thread_not_found"}


def check(body: Mapping[str, Any]) -> None:
    """Check that a request has its whole history.

    :raises UnknownThread: it continues a thread.
    """
    thread = body.get("thread")
    fields = cast("dict[str, Any]", thread) if isinstance(thread, dict) else {}
    if fields and fields.get("type") != "create":
        raise UnknownThread(
            "thread: this server holds no conversations; send all messages", param="thread"
        )
