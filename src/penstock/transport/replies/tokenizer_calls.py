"""Small calls to a worker's tokenizer: pushed by the API, taken and answered by a worker.

They are questions without an effect, so one that is asked twice or lost with a worker does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.tokenizer_calls import UtilityCall, UtilityReply
from penstock.errors import QueueFull
from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    import redis.asyncio

MOST_CALLS: Final = 1_000
"""Unanswered calls of a queue."""
LONGEST_WAIT_S: Final = 4.0
"""Less than the socket's timeout."""

_decoder = msgspec.json.Decoder(UtilityCall)
_encoder = msgspec.json.Encoder()


async def push(redis: redis.asyncio.Redis, call: UtilityCall, ttl_s: float) -> None:
    """Leave a call for the queue's workers, for `ttl_s` at least; `Replies.call` also waits.

    :raises QueueFull: too many calls wait.
    """
    key = keys.utility(call.queue)
    pipeline = cast("Any", redis).pipeline(transaction=True)
    pipeline.lpush(key, _encoder.encode(call))
    pipeline.ltrim(key, -MOST_CALLS, -1)
    pipeline.pexpire(key, int(ttl_s * 1000) + 1)
    length, *_ = await pipeline.execute()
    if length > MOST_CALLS:
        raise QueueFull(f"too many utility calls wait on {call.queue}", retry_after_s=1.0)


def take(redis: redis.Redis, queues: Sequence[str], timeout_s: float) -> UtilityCall | None:
    """Return the oldest call of one of the queues, or None after `timeout_s` (4 s at most).

    :raises redis.exceptions.RedisError: Redis is away; a lost answer may have held a call.
    """
    found = cast("Any", redis).brpop(
        [keys.utility(queue) for queue in queues], timeout=min(timeout_s, LONGEST_WAIT_S)
    )
    return None if found is None else _decoder.decode(found[1])


def answer(redis: redis.Redis, channel: str, reply: UtilityReply) -> None:
    """Publish a reply on the `reply` channel of its call."""
    cast("Any", redis).publish(channel, _encoder.encode([reply]))
