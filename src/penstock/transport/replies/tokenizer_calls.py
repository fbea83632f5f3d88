"""Calls to a worker's tokenizer: pushed by the API, taken and answered by a worker.

They have no effects, so a call that is repeated, or lost with a worker, does no harm.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, overload

import msgspec

from penstock.contract.tokenizer_calls import TokenizerCall, TokenizerReply
from penstock.errors import NoWorker, QueueFull, from_code
from penstock.transport import keys
from penstock.transport.store.connection import patiently_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    import redis.asyncio

MOST_CALLS: Final = 1_000
"""Most unanswered calls of a queue."""
LONGEST_WAIT_S: Final = 4.0
"""Less than the socket's timeout."""
CALL_AGAIN_S: Final = 3.0
"""A call without an answer is pushed again: its worker may have died with it."""

SHOWN: Final = 100
"""Characters of a foreign message that an error shows."""

_decoder = msgspec.json.Decoder(TokenizerCall)
_encoder = msgspec.json.Encoder()


class ForeignCall(Exception):
    """A message on a queue's list that is no tokenizer call."""


async def push(redis: redis.asyncio.Redis, call: TokenizerCall, ttl_s: float) -> None:
    """Push a call to the queue's workers; it lives for at least `ttl_s`. `PendingCalls` also waits.

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


class PendingCalls:
    """The calls of an API process that wait for their replies. Owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, channel: str, patience_s: float) -> None:
        self._redis = redis
        self._channel = channel
        self._patience_s = patience_s
        self._replies: dict[str, asyncio.Future[TokenizerReply]] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def settle(self, reply: TokenizerReply) -> None:
        """Hand a reply to its call, if that still waits."""
        future = self._replies.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)

    async def call(self, call: TokenizerCall, timeout_s: float) -> TokenizerReply:
        """Push a call to its queue's workers, again and again, and wait for the reply.

        :raises NoWorker: none answered in time.
        :raises StoreUnavailable: Redis stayed away.
        :raises PenstockError: what the reply's error code names.
        """
        call = msgspec.structs.replace(call, reply=self._channel)
        future: asyncio.Future[TokenizerReply] = asyncio.get_running_loop().create_future()
        self._replies[call.id] = future
        end_s = time.monotonic() + timeout_s
        try:
            while not future.done():
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise NoWorker(f"no worker of {call.queue} answered in {timeout_s:g} s")
                patience_s = min(left_s, self._patience_s)
                await patiently_async(lambda: push(self._redis, call, timeout_s), patience_s)
                await asyncio.wait([future], timeout=min(CALL_AGAIN_S, left_s))
            reply = future.result()
        finally:
            del self._replies[call.id]
        if reply.error_code:
            raise from_code(reply.error_code, reply.error_message)
        return reply


class CalledToJob(NamedTuple):
    """A call to look into a queue: a job waits there whose prompt this worker has in its cache."""

    queue: str


@overload
def take(redis: redis.Redis, queues: Sequence[str], timeout_s: float) -> TokenizerCall | None: ...


@overload
def take(
    redis: redis.Redis, queues: Sequence[str], timeout_s: float, worker_id: str
) -> TokenizerCall | CalledToJob | None: ...


def take(
    redis: redis.Redis, queues: Sequence[str], timeout_s: float, worker_id: str = ""
) -> TokenizerCall | CalledToJob | None:
    """Return the oldest call of one of the queues, or None after `timeout_s` (4 s at most).

    With `worker_id`, also this worker's calls to jobs, which go first.

    :raises ForeignCall: what came is not a call of ours.
    :raises redis.exceptions.RedisError: Redis is away; a call may have been lost with the answer.
    """
    called = {keys.called(queue, worker_id): queue for queue in queues if worker_id}
    popped = cast("Any", redis).brpop(
        [*called, *(keys.tokenizer_calls(queue) for queue in queues)],
        timeout=min(timeout_s, LONGEST_WAIT_S),
    )
    if popped is None:
        return None
    if (queue := called.get(popped[0].decode())) is not None:
        return CalledToJob(queue)
    try:
        call = _decoder.decode(popped[1])
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ForeignCall(str(error)[:SHOWN]) from error
    if call.queue not in queues:
        raise ForeignCall(f"it is for another queue: {call.queue[:SHOWN]!r}")
    return call


def answer(redis: redis.Redis, channel: str, reply: TokenizerReply) -> None:
    """Publish a reply on the `reply` channel of its call."""
    cast("Any", redis).publish(channel, _encoder.encode([reply]))
