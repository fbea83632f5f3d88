"""Who used what: one entry a request, appended and never changed, oldest ones dropped at a bound."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.clock import clock
from penstock.transport import keys
from penstock.transport.connection import patiently

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    import redis.asyncio

    from penstock.settings import Settings

PAGE: Final = 1_000
DAY_S: Final = 86_400


class UsageRow(msgspec.Struct, frozen=True):
    """One request's use, or a part's of many embeddings. `outcome` is "ok" or an error's code; `time` is ISO 8601, UTC."""

    time: str
    key: str
    key_name: str
    model: str
    queue: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    answers: int
    duration_s: float
    request_id: str
    endpoint: str = ""


_decoder = msgspec.json.Decoder(UsageRow)
_encoder = msgspec.json.Encoder()


def now() -> str:
    """Return the time as a row tells it."""
    seconds, milliseconds = divmod(clock.now_ms(), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


async def append(redis: redis.asyncio.Redis, row: UsageRow, settings: Settings) -> None:
    """Write a row; nothing where `settings.usage_log_rows` is 0.

    :raises redis.exceptions.RedisError: the row is lost.
    """
    if not settings.usage_log_rows:
        return
    pipeline = cast("Any", redis).pipeline(transaction=False)
    pipeline.xadd(
        keys.USAGE, {"r": _encoder.encode(row)}, maxlen=settings.usage_log_rows, approximate=True
    )
    pipeline.expire(keys.USAGE, settings.usage_log_days * DAY_S)
    await pipeline.execute()


def read(redis: redis.Redis, since_ms: int, patience_s: float) -> Iterator[UsageRow]:
    """Yield the rows that were written at or after `since_ms` (Unix time), oldest first.

    :raises StoreUnavailable:
    """
    client = cast("Any", redis)
    start = str(since_ms)
    while True:
        first = start
        page = patiently(lambda: client.xrange(keys.USAGE, min=first, count=PAGE), patience_s)  # noqa: B023  called at once
        yield from (_decoder.decode(fields[b"r"]) for _, fields in page)
        if len(page) < PAGE:
            return
        start = "(" + page[-1][0].decode()
