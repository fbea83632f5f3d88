"""Reads a job's journal: the record of what was generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.events import Event
from penstock.transport import keys
from penstock.transport.store import contents

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    import redis.asyncio

PAGE: Final = 1_000
"""Default for the most events that one call returns."""

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def events(entries: Sequence[tuple[bytes, dict[bytes, bytes]]], key: str) -> list[Event]:
    """Return the events of the entries of the stream `key`, as XRANGE returns them.

    :raises StoreUnavailable: they are something else.
    """
    return [contents.decode(_decoder, fields.get(b"e", b""), key) for _, fields in entries]


async def read_async(
    redis: redis.asyncio.Redis, queue: str, job_id: str, after: int = -1, limit: int = PAGE
) -> list[Event]:
    """Return the events whose index is above `after`, oldest first; [] for an unknown job."""
    key = keys.journal(queue, job_id)
    entries = await cast("Any", redis).xrange(key, min=f"1-{after + 1}", count=limit)
    return events(entries, key)


def read(
    redis: redis.Redis, queue: str, job_id: str, after: int = -1, limit: int = PAGE
) -> list[Event]:
    """Return the events whose index is above `after`, oldest first; [] for an unknown job."""
    key = keys.journal(queue, job_id)
    entries = cast("Any", redis).xrange(key, min=f"1-{after + 1}", count=limit)
    return events(entries, key)
