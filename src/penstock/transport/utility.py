"""Small calls to a worker's tokenizer: pushed by the API, taken and answered by a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    import redis.asyncio

    from penstock.contract.utility import UtilityCall, UtilityReply


async def push(redis: redis.asyncio.Redis, call: UtilityCall, ttl_s: float) -> None:
    """Leave a call for the queue's workers. (`Replies.call` does this and waits.)"""
    raise NotImplementedError


def take(redis: redis.Redis, queues: Sequence[str], timeout_s: float) -> UtilityCall | None:
    """Return the oldest call of one of the queues, waiting up to `timeout_s` (at most 4 s)."""
    raise NotImplementedError


def answer(redis: redis.Redis, channel: str, reply: UtilityReply) -> None:
    """Publish a reply on the call's `reply` channel."""
    raise NotImplementedError
