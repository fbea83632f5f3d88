"""The live paths back from every Redis that has jobs, as one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from penstock.transport.replies.replies import Replies
from penstock.transport.store.grouped import Stores, stores_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import redis.asyncio

    from penstock.contract.events import Event
    from penstock.contract.tokenizer_calls import TokenizerCall, TokenizerReply
    from penstock.settings import Settings


class AllReplies:
    """`Replies` of each Redis, on channels of one name; a job's queue decides which one it is.

    Owned by one event loop. `channel` is the value of `Job.reply` and `TokenizerCall.reply`.
    """

    def __init__(self, redis: redis.asyncio.Redis | Stores, settings: Settings) -> None:
        self.channel = Replies.new_channel()
        self._replies = stores_of(redis).map(
            lambda client: Replies(client, settings, channel=self.channel)
        )

    @property
    def following(self) -> int:
        """The number of streams that are followed."""
        return sum(replies.following for replies in self._replies.all())

    def connected_s(self, queue: str) -> float:
        """Return how long (seconds) the subscription for a queue has lasted; 0 if there is none."""
        return self._replies.of(queue).connected_s()

    def is_followed(self, job_id: str) -> bool:
        """Return whether a client of this process waits for a job's events."""
        return any(replies.is_followed(job_id) for replies in self._replies.all())

    def check_room(self, job_id: str) -> None:
        """Check that a job may have another follower, before anything else is done for it.

        :raises Overloaded: it already has as many as allowed.
        """
        for replies in self._replies.all():
            replies.check_room(job_id)

    async def start(self) -> None:
        """Subscribe everywhere. If a Redis is away, its streams still work: from their journals."""
        await asyncio.gather(*(replies.start() for replies in self._replies.all()))

    async def stop(self) -> None:
        """End the subscriptions; streams that are still followed receive nothing more."""
        await asyncio.gather(*(replies.stop() for replies in self._replies.all()))

    def expect(self, queue: str, job_id: str) -> None:
        """Listen to a job that is about to be submitted for the first time; see `Replies`."""
        self._replies.of(queue).expect(queue, job_id)

    def forget(self, job_id: str) -> None:
        """Undo `expect`."""
        for replies in self._replies.all():
            replies.forget(job_id)

    def follow(
        self,
        queue: str,
        job_id: str,
        *,
        tick_s: float,
        again: Callable[[], Awaitable[bool]] | None = None,
        at_once: bool = False,
    ) -> AsyncGenerator[Event | None, None]:
        """Yield a job's events in order, each once, until its terminal one; see `Replies`.

        :raises UnknownJob, Overloaded, StoreUnavailable: as `Replies.follow`.
        """
        replies = self._replies.of(queue)
        return replies.follow(queue, job_id, tick_s=tick_s, again=again, at_once=at_once)

    async def call(self, call: TokenizerCall, timeout_s: float) -> TokenizerReply:
        """Push a tokenizer call to its queue's workers and wait for the reply.

        :raises NoWorker: no worker answered in time.
        :raises StoreUnavailable: Redis stayed away, as in `follow`.
        :raises PenstockError: the error that the reply's code names.
        """
        return await self._replies.of(call.queue).call(call, timeout_s)
