"""The live path back to an API process: one subscription for all of its clients.

Pub/sub brings events quickly and may lose them; the journal has them all. A follower reads the
journal when it starts, when the live events show a gap, when its client did not keep up, and when
a look at the job (after a second of silence, after each reconnect) shows that something is missing.
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
from penstock.contract.tokenizer_calls import UtilityReply
from penstock.errors import NoWorker, Overloaded, StoreUnavailable, UnknownJob, from_code
from penstock.transport import keys
from penstock.transport.replies import tokenizer_calls
from penstock.transport.replies.follower import Follower, index_after
from penstock.transport.replies.looks import Looks
from penstock.transport.replies.subscriber import Subscriber
from penstock.transport.store.connection import patiently_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    import redis.asyncio

    from penstock.contract.tokenizer_calls import UtilityCall
    from penstock.settings import Settings

_log = logging.getLogger(__name__)

SWEEP_S: Final = 0.1
"""How often ticks and silent followers are looked for."""
SILENT_S: Final = 1.0
"""After this long without an event a follower's job is looked at, and again as often."""
LOOKS_AT_ONCE: Final = 200
"""Jobs looked at in one pipeline."""
MOST_READERS: Final = 32
"""Of one job at one process: each costs the event loop as much as a stream of its own."""
JOURNAL_PAGE: Final = 256
"""Events that a follower reads at once."""
AWAY_RETRY_S: Final = 5.0
CALL_AGAIN_S: Final = 3.0
"""A utility call without an answer is pushed again: its worker may have died with it."""

_decoder: msgspec.json.Decoder[list[Event | UtilityReply]] = msgspec.json.Decoder(
    list[Event | UtilityReply]
)


class Replies:
    """Events of the jobs that this process's clients wait for, and replies to utility calls.

    Owned by one event loop. `channel` is what a `Job.reply` and a `UtilityCall.reply` hold.
    """

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self.channel = keys.reply(uuid.uuid4().hex)
        self._redis = redis
        self._patience_s = settings.redis_patience_s
        self._looks = Looks(redis, self._patience_s)
        self._followers: dict[str, list[Follower]] = {}
        self._expected: dict[str, Follower] = {}
        self._calls: dict[str, asyncio.Future[UtilityReply]] = {}
        self._subscriber = Subscriber(
            redis, self.channel, on_message=self._dispatch, on_connect=self._come_back
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._away_since_s: float | None = None
        self._run_id: str | None = None
        """Which run of Redis the followers' events are of; "" if it is not to be known."""
        self._back_since_s = time.monotonic()

    def connected_s(self) -> float:
        """Return for how long (seconds) the subscription has stood; 0 while it does not."""
        return time.monotonic() - self._back_since_s if self.connected else 0.0

    @property
    def connected(self) -> bool:
        """Whether the subscription stands just now."""
        return self._subscriber.connected

    @property
    def following(self) -> int:
        """The number of streams that are followed."""
        return sum(len(followers) for followers in self._followers.values())

    def is_followed(self, job_id: str) -> bool:
        """Whether a client of this process waits for a job's events."""
        return job_id in self._followers

    def check_room(self, job_id: str) -> None:
        """See that a job may have another follower, before anything else is done for it.

        :raises Overloaded: it has as many as it may.
        """
        if len(self._followers.get(job_id, ())) >= MOST_READERS:
            raise Overloaded(f"This job's stream has {MOST_READERS} readers already")

    async def start(self) -> None:
        """Subscribe. Where Redis is away, streams still work, from their journals and later."""
        self._tasks = [
            asyncio.create_task(self._tick(), name="penstock-ticks"),
            asyncio.create_task(self._look(), name="penstock-looks"),
        ]
        await self._subscriber.start()

    async def stop(self) -> None:
        """End the subscription; streams that are still followed hear nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._subscriber.stop()

    def expect(self, queue: str, job_id: str) -> None:
        """Listen to a job that is about to be submitted for the first time.

        `follow` then takes up what has come, and need not read a journal that was empty when the
        listening began. Whoever expects a job and does not follow it says `forget`.
        """
        if self.connected:  # else its follower reads the journal, as any other
            follower = self._expected[job_id] = Follower(queue, job_id, 0.0)
            follower.stale = False

    def forget(self, job_id: str) -> None:
        """Expect a job no more."""
        self._expected.pop(job_id, None)

    def _begin(self, queue: str, job_id: str, tick_s: float) -> Follower:
        """Return a job's new follower, which listens from now on or has done so before.

        :raises Overloaded: it has as many as it may.
        """
        self.check_room(job_id)
        follower = Follower(queue, job_id, tick_s)
        expected = self._expected.pop(job_id, None)
        if expected is not None:
            follower.take_over(expected)
        self._followers.setdefault(job_id, []).append(follower)
        return follower

    async def follow(
        self,
        queue: str,
        job_id: str,
        *,
        after: int = -1,
        tick_s: float,
        again: Callable[[], Awaitable[bool]] | None = None,
    ) -> AsyncGenerator[Event | None, None]:
        """Yield a job's events in order, each once, until its terminal one.

        `after` is the index of an event that the client has already. None stands for `tick_s` of
        silence (to a tenth of a second): the caller writes a keep-alive. A job that is not there
        any more (a failover to a replica that had not heard of it) is submitted `again`, where
        that call says that it has done so.

        :raises UnknownJob: no such job, or its journal has expired.
        :raises Overloaded: too many read this job at this process.
        :raises StoreUnavailable: Redis stayed away for longer than `settings.redis_patience_s`.
        """
        # Listen first, then read the journal: nothing can fall between the two.
        follower = self._begin(queue, job_id, tick_s)
        try:
            if after >= 0 and await self._resume(follower, after):
                return
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
            self._leave(follower)

    async def call(self, call: UtilityCall, timeout_s: float) -> UtilityReply:
        """Push a utility call to its queue's workers and wait for the reply.

        :raises NoWorker: nobody answered in time.
        :raises StoreUnavailable: Redis stayed away, as in `follow`.
        :raises PenstockError: what the reply's error code names.
        """
        call = msgspec.structs.replace(call, reply=self.channel)
        future: asyncio.Future[UtilityReply] = asyncio.get_running_loop().create_future()
        self._calls[call.id] = future
        end_s = time.monotonic() + timeout_s
        try:
            while not future.done():
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise NoWorker(f"no worker of {call.queue} answered in {timeout_s:g} s")
                patience_s = min(left_s, self._patience_s)
                await patiently_async(
                    lambda: tokenizer_calls.push(self._redis, call, timeout_s), patience_s
                )
                await asyncio.wait([future], timeout=min(CALL_AGAIN_S, left_s))
            reply = future.result()
        finally:
            del self._calls[call.id]
        if reply.error_code:
            raise from_code(reply.error_code, reply.error_message)
        return reply

    # -- what a follower does

    async def _resume(self, follower: Follower, after: int) -> bool:
        """Find out where the event after `after` starts; True if `after` was the last one."""
        events = await self._read(follower, after - 1, limit=1)
        if events and events[0].index == after:
            follower.resume_at(index_after(events[0]))
            return isinstance(events[0], TERMINAL_EVENTS)
        follower.resume_at(after + 1, is_aligned=False)
        return False

    async def _next(self, follower: Follower) -> Sequence[Event | None]:
        """Wait for the next events of a follower, at least one; [None] for a silent tick."""
        while True:
            if follower.stale:
                follower.stale = False
                begins_at = follower.next_index
                found = await self._read(follower, begins_at - 1, JOURNAL_PAGE)
                follower.stale = follower.stale or len(found) == JOURNAL_PAGE
                if follower.next_index != begins_at:
                    continue  # all is to be compared again
                events = follower.take_journal(found)
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
        """Read a follower's journal; one that has no job any more is told so."""
        page = await self._looks.read(follower, after, limit)
        self._note_run(page.run_id)
        if not page.events and page.created is None:
            follower.lose()
        elif not follower.knows(page.created):
            follower.follow_anew()
        return page.events

    def _note_run(self, run_id: str) -> None:
        """Have everything compared again if Redis was restarted, or another has taken over.

        It may have lost the last part of what it had, and what was written since then may be another
        text than what was given out before.
        """
        before, self._run_id = self._run_id, run_id
        if before is not None and run_id != before:
            for follower in self._all():
                follower.verify()

    def _leave(self, follower: Follower) -> None:
        followers = self._followers[follower.job_id]
        followers.remove(follower)
        if not followers:
            del self._followers[follower.job_id]

    def _all(self) -> Iterable[Follower]:
        return (one for followers in self._followers.values() for one in followers)

    # -- what happens around them

    def _dispatch(self, payload: bytes) -> None:
        """Hand a message's events to their followers; called by the subscriber."""
        try:
            items = _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            _log.warning("a message that cannot be read: %s", error)
            self._look_at_all()
            return
        for item in items:
            if isinstance(item, UtilityReply):
                future = self._calls.get(item.id)
                if future is not None and not future.done():
                    future.set_result(item)
            else:
                for follower in self._followers.get(item.job_id, ()):
                    follower.deliver(item)
                expected = self._expected.get(item.job_id)
                if expected is not None:
                    expected.deliver(item)

    def _come_back(self) -> None:
        """Have every journal read: messages may have been lost, or Redis's memory."""
        self._back_since_s = time.monotonic()
        for follower in self._all():
            follower.miss()
        for expected in self._expected.values():
            expected.miss()

    def _look_at_all(self) -> None:
        """Have every job looked at soon: messages may have been lost."""
        for follower in self._all():
            follower.heard_s = follower.checked_s = 0.0
        for expected in self._expected.values():
            expected.miss()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            for follower in self._all():
                if now_s - follower.ticked_s >= follower.tick_s and not follower.tick_due:
                    follower.tick()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            silent = [
                one
                for one in self._all()
                if now_s - max(one.heard_s, one.checked_s) >= SILENT_S
                and not one.stale
                and not one.has_live_events()
            ]
            try:
                for start in range(0, len(silent), LOOKS_AT_ONCE):
                    await self._looks.look(silent[start : start + LOOKS_AT_ONCE])
            except (RedisError, OSError, RuntimeError):
                self._note_absence(silent, now_s)  # and the followers stay due
            else:
                self._away_since_s = None

    def _note_absence(self, silent: Sequence[Follower], now_s: float) -> None:
        """End the streams that have been silent since Redis went, once it is too long ago."""
        if self._away_since_s is None:
            self._away_since_s = now_s
        if now_s - self._away_since_s > self._patience_s:
            for follower in silent:
                follower.fail(StoreUnavailable("Redis does not answer", retry_after_s=AWAY_RETRY_S))
