"""Calls to a worker's tokenizer: pushed by the API, taken and answered by a worker.

They have no effects, so a call that is repeated, or lost with a worker, does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.tokenizer_calls import TokenizerCall, TokenizerReply
from penstock.errors import QueueFull
from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    import redis.asyncio

MOST_CALLS: Final = 1_000
"""Most unanswered calls of a queue."""
LONGEST_WAIT_S: Final = 4.0
"""Less than the socket's timeout."""

_decoder = msgspec.json.Decoder(TokenizerCall)
_encoder = msgspec.json.Encoder()


async def push(redis: redis.asyncio.Redis, call: TokenizerCall, ttl_s: float) -> None:
    """Push a call to the queue's workers; it lives for at least `ttl_s`. `Replies.call` also waits.

    :raises QueueFull: too many calls wait.
    """
    key = keys.tokenizer_calls(call.queue)
    pipeline = cast("Any", redis).pipeline(transaction=True)
    pipeline.lpush(key, _encoder.encode(call))
    pipeline.ltrim(key, -MOST_CALLS, -1)
    pipeline.pexpire(key, int(ttl_s * 1000) + 1)
    length, *_ = await pipeline.execute()
    if length > MOST_CALLS:
        raise QueueFull(f"too many tokenizer calls wait on {call.queue}", retry_after_s=1.0)


def take(redis: redis.Redis, queues: Sequence[str], timeout_s: float) -> TokenizerCall | None:
    """Return the oldest call of one of the queues, or None after `timeout_s` (4 s at most).

    :raises redis.exceptions.RedisError: Redis is away; a call may have been lost with the answer.
    """
    popped = cast("Any", redis).brpop(
        [keys.tokenizer_calls(queue) for queue in queues], timeout=min(timeout_s, LONGEST_WAIT_S)
    )
    return None if popped is None else _decoder.decode(popped[1])


def answer(redis: redis.Redis, channel: str, reply: TokenizerReply) -> None:
    """Publish a reply on the `reply` channel of its call."""
    cast("Any", redis).publish(channel, _encoder.encode([reply]))
