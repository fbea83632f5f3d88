"""The live path back to an API process: one subscription for all of its clients.

Pub/sub delivers events quickly and may lose them; the journal has them all. A follower reads the
journal when it starts, when live events show a gap, when its client is too slow, and when a look at
the job (after a second of silence, after each reconnect) shows that something is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import TYPE_CHECKING, Final

import msgspec
from redis.exceptions import RedisError

from penstock.contract.events import TERMINAL_EVENTS, Event
from penstock.contract.tokenizer_calls import TokenizerReply
from penstock.errors import StoreUnavailable, UnknownJob
from penstock.transport import keys
from penstock.transport.replies.followers import Followers
from penstock.transport.replies.job_checks import JobChecks
from penstock.transport.replies.subscriber import Subscriber
from penstock.transport.replies.tokenizer_calls import PendingCalls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    import redis.asyncio

    from penstock.contract.tokenizer_calls import TokenizerCall
    from penstock.settings import Settings
    from penstock.transport.replies.follower import Follower

_log = logging.getLogger(__name__)

SWEEP_S: Final = 0.1
"""How often ticks and silent followers are checked."""
LOOKS_AT_ONCE: Final = 200
"""Jobs looked at in one pipeline."""
JOURNAL_PAGE: Final = 256
"""Events that a follower reads from a journal at once."""
AWAY_RETRY_S: Final = 5.0

_decoder: msgspec.json.Decoder[list[Event | TokenizerReply]] = msgspec.json.Decoder(
    list[Event | TokenizerReply]
)


class Replies:
    """Events of the jobs that this process's clients wait for, and replies to tokenizer calls.

    Owned by one event loop. `channel` is the value of `Job.reply` and `TokenizerCall.reply`.
    """

    def __init__(
        self, redis: redis.asyncio.Redis, settings: Settings, *, channel: str = ""
    ) -> None:
        self.channel = channel or self.new_channel()
        self._redis = redis
        self._patience_s = settings.redis_patience_s
        self._checks = JobChecks(redis, self._patience_s)
        self._followers = Followers()
        self._calls = PendingCalls(redis, self.channel, self._patience_s)
        self._subscriber = Subscriber(
            redis, self.channel, on_message=self._dispatch, on_connect=self._come_back
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._away_since_s: float | None = None
        self._run_id: str | None = None
        """The run of Redis that the followers' events are from; "" if unknown."""
        self._back_since_s = time.monotonic()

    @staticmethod
    def new_channel() -> str:
        """Return the name of a channel that nothing else uses."""
        return keys.reply(uuid.uuid4().hex)

    def connected_s(self) -> float:
        """Return how long (seconds) the subscription has lasted; 0 if there is none."""
        return time.monotonic() - self._back_since_s if self.connected else 0.0

    @property
    def connected(self) -> bool:
        """Whether the subscription is up."""
        return self._subscriber.connected

    @property
    def following(self) -> int:
        """The number of streams that are followed."""
        return len(self._followers)

    def is_followed(self, job_id: str) -> bool:
        """Return whether a client of this process waits for a job's events."""
        return job_id in self._followers

    def check_room(self, job_id: str) -> None:
        """Check that a job may have another follower, before anything else is done for it.

        :raises Overloaded: it already has as many as allowed.
        """
        self._followers.check_room(job_id)

    async def start(self) -> None:
        """Subscribe. If Redis is away, streams still work: from their journals, and later."""
        self._tasks = [
            asyncio.create_task(self._tick(), name="penstock-ticks"),
            asyncio.create_task(self._look(), name="penstock-checks"),
        ]
        await self._subscriber.start()

    async def stop(self) -> None:
        """End the subscription; streams that are still followed receive nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._subscriber.stop()

    def expect(self, queue: str, job_id: str) -> None:
        """Listen to a job that is about to be submitted for the first time.

        `follow` then continues with the events received so far, and need not read a journal that
        was empty when listening began. A caller that does not follow the job calls `forget`.
        """
        if self.connected:  # otherwise its follower reads the journal
            self._followers.expect(queue, job_id)

    def forget(self, job_id: str) -> None:
        """Undo `expect`."""
        self._followers.forget(job_id)

    async def follow(
        self,
        queue: str,
        job_id: str,
        *,
        tick_s: float,
        again: Callable[[], Awaitable[bool]] | None = None,
        at_once: bool = False,
    ) -> AsyncGenerator[Event | None, None]:
        """Yield a job's events in order, each once, until its terminal one.

        None stands for `tick_s` of silence (to a tenth of a second): the caller writes a
        keep-alive. A job that no longer exists (a failover to a replica that had not received it)
        is submitted `again`, if that call returns True. With `at_once`, the first is None: there is
        room for this reader.

        :raises UnknownJob: no such job, or its journal has expired.
        :raises Overloaded: too many clients read this job at this process.
        :raises StoreUnavailable: Redis stayed away for longer than `settings.redis_patience_s`.
        """
        # Listen first, then read the journal: nothing can be missed in between.
        follower = self._followers.begin(queue, job_id, tick_s)
        try:
            if at_once:
                yield None
            while True:
                try:
                    events = await self._next(follower)
                except UnknownJob:
                    if again is None or not await again():
                        raise
                    follower.begin_again()
                    continue
                for event in events:
                    yield event
                    if isinstance(event, TERMINAL_EVENTS):
                        return
        finally:
            self._followers.leave(follower)

    async def call(self, call: TokenizerCall, timeout_s: float) -> TokenizerReply:
        """Push a tokenizer call to its queue's workers and wait for the reply.

        :raises NoWorker: no worker answered in time.
        :raises StoreUnavailable: Redis stayed away, as in `follow`.
        :raises PenstockError: the error that the reply's code names.
        """
        return await self._calls.call(call, timeout_s)

    # -- the steps of a follower

    async def _next(self, follower: Follower) -> Sequence[Event | None]:
        """Wait for a follower's next events and return at least one; [None] for a silent tick."""
        while True:
            if follower.stale:
                follower.stale = False
                begins_at = follower.next_index
                page = await self._read(follower, begins_at - 1, JOURNAL_PAGE)
                follower.stale = follower.stale or len(page) == JOURNAL_PAGE
                if follower.next_index != begins_at:
                    continue  # everything is to be compared again
                events = follower.take_journal(page)
            else:
                events = follower.take_live()
            if events:
                follower.heard_s = follower.ticked_s = time.monotonic()
                follower.tick_due = False
                return events
            if follower.fault is not None:
                raise follower.fault
            if follower.gone:
                raise UnknownJob(f"no such job: {follower.job_id}")
            if follower.tick_due:
                follower.tick_due = False
                follower.ticked_s = time.monotonic()
                return (None,)
            if not follower.stale and not follower.has_live_events():
                await follower.wait()

    async def _read(self, follower: Follower, after: int, limit: int) -> list[Event]:
        """Read a page of a follower's journal, and notify the follower if its job is gone."""
        page = await self._checks.read(follower, after, limit)
        self._note_run(page.run_id)
        if not page.events and page.created is None:
            follower.lose()
        elif not follower.knows(page.created):
            follower.begin_again()
        return page.events

    def _note_run(self, run_id: str) -> None:
        """Compare everything again if Redis was restarted or another server has taken over.

        It may have lost the last part of its data, and what has been written since may differ from
        what was sent before.
        """
        before, self._run_id = self._run_id, run_id
        if before is not None and run_id != before:
            self._followers.verify()

    # -- callbacks of the subscriber, and the ticker

    def _dispatch(self, payload: bytes) -> None:
        """Pass a message's events to their followers. Called by the subscriber."""
        try:
            items = _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            _log.warning("a message cannot be decoded: %s", error)
            self._followers.check()
            return
        for item in items:
            if isinstance(item, TokenizerReply):
                self._calls.settle(item)
            else:
                self._followers.deliver(item)

    def _come_back(self) -> None:
        """Have every journal read: messages may have been lost, or Redis's data."""
        self._back_since_s = time.monotonic()
        self._followers.miss()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._followers.tick(time.monotonic())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            silent = self._followers.silent(now_s)
            try:
                for start in range(0, len(silent), LOOKS_AT_ONCE):
                    await self._checks.look(silent[start : start + LOOKS_AT_ONCE])
            except (RedisError, OSError, RuntimeError):
                self._note_absence(silent, now_s)  # the followers remain due
            else:
                self._away_since_s = None

    def _note_absence(self, silent: Sequence[Follower], now_s: float) -> None:
        """End the streams that have been silent since Redis went away, if that is too long ago."""
        if self._away_since_s is None:
            self._away_since_s = now_s
        if now_s - self._away_since_s > self._patience_s:
            for follower in silent:
                follower.fail(StoreUnavailable("Redis does not answer", retry_after_s=AWAY_RETRY_S))
