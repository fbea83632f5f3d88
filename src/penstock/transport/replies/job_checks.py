"""What the store has of the followed jobs, and whether it is the same run of Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.events import Event
from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.jobs import journal
from penstock.transport.jobs.records import TERMINAL_STATUSES
from penstock.transport.store import contents, wrong_types
from penstock.transport.store.connection import as_unavailable, patiently_async

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import redis.asyncio

    from penstock.transport.replies.follower import Follower

QUEUE_EVERY_S: Final = 1.0
"""How often a queue's key types are checked while one of its jobs is silent."""


class Page(msgspec.Struct, frozen=True):
    """A part of a job's journal.

    `created` is when the job was stored; None if it is not there. `run_id` identifies the run of
    Redis that has answered; "" if we are not permitted to ask.
    """

    events: list[Event]
    created: bytes | None
    run_id: str


class JobChecks:
    """Reads journals, and checks the jobs of silent followers. Owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, patience_s: float) -> None:
        self._redis = cast("Any", redis)
        self._patience_s = patience_s
        self._looked_s: dict[str, float] = {}

    async def read(self, follower: Follower, after: int, limit: int) -> Page:
        """Return a page of a follower's events whose index is above `after`.

        :raises StoreUnavailable: Redis stayed away, or a key has another type.
        """

        async def read() -> Page:
            pipeline = self._redis.pipeline(transaction=False)
            journal_key = keys.journal(follower.queue, follower.job_id)
            pipeline.xrange(journal_key, min=f"1-{after + 1}", count=limit)
            pipeline.hget(keys.job(follower.queue, follower.job_id), "created")
            pipeline.info("server")
            entries, created, server = await pipeline.execute(raise_on_error=False)
            for answer in (entries, created):
                if isinstance(answer, Exception):
                    raise answer
            return Page(journal.events(entries, journal_key), created, _run_id(server))

        return await patiently_async(read, self._patience_s)

    async def look(self, followers: Sequence[Follower]) -> None:
        """Compare followers with their jobs; a follower that misses something reads its journal.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for follower in followers:
            job_key = keys.job(follower.queue, follower.job_id)
            pipeline.hmget(job_key, ("state", "next", "created"))
            pipeline.type(keys.journal(follower.queue, follower.job_id))
        types = self._types({follower.queue for follower in followers})
        for key in types:
            pipeline.type(key)
        answers = await pipeline.execute(raise_on_error=False)
        now_s = time.monotonic()
        for number, follower in enumerate(followers):
            follower.checked_s = now_s
            _compare(follower, *answers[2 * number : 2 * number + 2])
        bad = wrong_types.wrong(types, answers[2 * len(followers) :])
        for queue in {follower.queue for follower in followers} if bad else ():
            faulty = [key for key in bad if key in wrong_types.expected(queue)]
            if faulty:
                _refuse((follower for follower in followers if follower.queue == queue), faulty)

    def _types(self, queues: Iterable[str]) -> dict[str, str]:
        """Return the keys to check now, with their expected types."""
        now_s = time.monotonic()
        types: dict[str, str] = {}
        for queue in queues:
            if now_s - self._looked_s.get(queue, float("-inf")) >= QUEUE_EVERY_S:
                self._looked_s[queue] = now_s
                types |= wrong_types.expected(queue)
        return types


def _run_id(server: Any) -> str:
    """Return the run id in an answer of `INFO server`; "" if there is none."""
    if not isinstance(server, dict):
        return ""
    return str(cast("dict[str, Any]", server).get("run_id", ""))


def _refuse(followers: Iterable[Follower], bad: Sequence[str]) -> None:
    fault = as_unavailable(wrong_types.error_of(bad))
    for follower in followers:
        follower.fail(fault or StoreUnavailable("Redis refuses a command"))


def _compare(follower: Follower, fields: Any, journal_type: Any) -> None:
    key = keys.job(follower.queue, follower.job_id)
    if wrong_types.is_wrong_type(fields):
        _refuse([follower], [key])
        return
    if isinstance(fields, Exception):
        raise fields
    if isinstance(journal_type, bytes) and journal_type not in {b"stream", b"none"}:
        _refuse([follower], [keys.journal(follower.queue, follower.job_id)])
        return
    state, next_index, created = fields
    if state is None or next_index is None:
        follower.lose()
        return
    if not follower.knows(created):
        follower.begin_again()
        return
    try:
        has_ended = contents.text(state, key) in TERMINAL_STATUSES
        stands_at = contents.whole_number(next_index, key)
    except StoreUnavailable as fault:
        follower.fail(fault)
        return
    if stands_at < follower.next_index:
        follower.fall_back(stands_at)
    elif stands_at > follower.next_index or has_ended:
        follower.miss()
