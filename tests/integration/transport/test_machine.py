"""Random lives of jobs: several workers, dead and undead ones among them, against a model."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock.contract.events import Failed, Finished, Tokens
from penstock.errors import QueueFull
from penstock.transport import keys
from penstock.transport.jobs import journal
from penstock.transport.jobs.queue import (
    TERMINAL_STATUSES,
    Claim,
    JobQueue,
    JobStatus,
    Row,
    WorkerQueue,
)
from penstock.transport.store.connection import connect, connect_async
from tests.fixtures.jobs import QUEUE, finished, make_job

if TYPE_CHECKING:
    from penstock.settings import Settings

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
"""`make fuzz` takes many more."""

WORKERS = 3
MOST_WAITING = 5
MAX_ATTEMPTS = 2
CHANNEL = "penstock:reply:machine"
PREFIX = keys.queue_prefix(QUEUE)


@dataclass
class Life:
    """What a job's life has to be."""

    order: int
    tenant: str
    priority: int
    returned: bool = False
    status: JobStatus = JobStatus.WAITING
    epoch: int = 0
    next_index: int = 0
    lost: int = 0
    cancel: bool = False
    late: bool = False
    written: list[tuple[int, int]] = field(default_factory=list)  # (epoch, index)


class Machine(RuleBasedStateMachine):
    """One queue. A worker's claims stay with it until a refusal tells that they are gone."""

    def __init__(self, plain: Settings) -> None:
        super().__init__()
        self.settings = plain.model_copy(
            update={
                "max_waiting_jobs": MOST_WAITING,
                "max_attempts": MAX_ATTEMPTS,
                "lease_ms": 60_000,  # they run out by our hand only
            }
        )
        self.redis = connect(self.settings)
        self.redis.flushall()
        self.runner = asyncio.Runner()
        self.api = self.runner.run(self._open())
        self.workers = [WorkerQueue(self.redis, self.settings, f"w{n}") for n in range(WORKERS)]
        self.held: list[dict[str, tuple[int, int]]] = [{} for _ in range(WORKERS)]
        self.lives: dict[str, Life] = {}
        self.submitted = 0
        self.pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(CHANNEL)
        self.pubsub.get_message(timeout=1)

    async def _open(self) -> JobQueue:
        self.async_redis = connect_async(self.settings)
        return JobQueue(self.async_redis, self.settings)

    # -- what is chosen from

    def open_jobs(self, *statuses: JobStatus) -> list[str]:
        wanted = statuses or (JobStatus.WAITING, JobStatus.RUNNING)
        return [job_id for job_id, life in self.lives.items() if life.status in wanted]

    def end(self, job_id: str, status: JobStatus) -> None:
        self.lives[job_id].status = status

    def refused_as(self, job_id: str, epoch: int) -> str | None:
        """What a write or a renewal of this epoch has to meet, and its effect."""
        life = self.lives[job_id]
        if life.epoch != epoch:
            return "fenced"
        if life.status in (JobStatus.CANCELLED, JobStatus.EXPIRED):
            return life.status.value
        if life.status is not JobStatus.RUNNING:
            return "fenced"
        if life.cancel:
            self.end(job_id, JobStatus.CANCELLED)
            return "cancelled"
        if life.late:
            self.end(job_id, JobStatus.EXPIRED)
            return "expired"
        return None

    # -- what happens

    @rule(tenant=st.sampled_from("abc"), priority=st.sampled_from((2, 5)), cost=st.integers(1, 50))
    def submit(self, tenant: str, priority: int, cost: int) -> None:
        self.submitted += 1
        job = make_job(
            id=f"{self.submitted:032x}",
            reply=CHANNEL,
            tenant=tenant,
            priority=priority,
            cost_tokens=cost,
        )
        full = len(self.open_jobs(JobStatus.WAITING)) >= MOST_WAITING
        try:
            accepted = self.runner.run(self.api.submit(job))
        except QueueFull:
            assert full
        else:
            assert accepted
            assert not full
            self.lives[job.id] = Life(len(self.lives), tenant, priority)

    @rule(
        number=st.integers(0, WORKERS - 1),
        most=st.integers(1, 4),
        least=st.integers(0, 1),
        live=st.integers(0, WORKERS),
    )
    def claim_many(self, number: int, most: int, least: int, live: int) -> None:
        """Several in one call, as single claims would give them, up to the worker's share."""
        held, bells = len(self.held[number]), self.redis.llen(QUEUE)
        on_time = [job for job in self.open_jobs(JobStatus.WAITING) if not self.lives[job].late]
        share = min(most, max(least, -(-len(self.open_jobs()) // max(live, 1)) - held))
        for name in range(live):
            self.redis.zadd(keys.workers_of(QUEUE), {f"w{name}": "+inf"})
        found = self.workers[number].claim_many(QUEUE, most, least=least, held=held)
        self.redis.delete(keys.workers_of(QUEUE))
        assert len(found.claims) == min(max(share, 0), len(on_time))
        for claim in found.claims:
            self.take(number, claim)
        self.end_late_ones()
        if len(found.claims) < share:
            assert not self.open_jobs(JobStatus.WAITING)
        assert found.waiting == len(self.open_jobs(JobStatus.WAITING))
        # Bells that nobody needs are taken back, one a job, and no other.
        left = self.redis.llen(QUEUE)
        assert min(bells, found.waiting) <= left <= max(found.waiting, bells - len(found.claims))

    @rule(number=st.integers(0, WORKERS - 1), only_returned=st.booleans())
    def claim(self, number: int, only_returned: bool) -> None:
        claim = self.workers[number].claim(QUEUE, only_returned=only_returned)
        waiting = [
            life
            for job_id in self.open_jobs(JobStatus.WAITING)
            if (life := self.lives[job_id]).returned or not only_returned
        ]
        if claim is None:
            assert all(life.late for life in waiting)
            for life in waiting:
                life.status = JobStatus.EXPIRED
            return
        self.take(number, claim, only_returned=only_returned)
        self.end_late_ones()

    def take(self, number: int, claim: Claim, *, only_returned: bool = False) -> None:
        """Check that it was this job's turn, and hold it."""
        waiting = [
            life
            for job_id in self.open_jobs(JobStatus.WAITING)
            if (life := self.lives[job_id]).returned or not only_returned
        ]
        life = self.lives[claim.job.id]
        assert life.status is JobStatus.WAITING
        assert not life.late
        assert (claim.epoch, claim.next_index) == (life.epoch + 1, life.next_index)
        on_time = [one for one in waiting if not one.late]
        assert life.priority == min(one.priority for one in on_time)
        returned = [one for one in on_time if one.returned and one.priority == life.priority]
        if returned:
            assert life.order == min(one.order for one in returned)
        line = [
            one for one in on_time if (one.tenant, one.priority) == (life.tenant, life.priority)
        ]
        assert life.order == min(one.order for one in line)
        life.status, life.epoch, life.returned = JobStatus.RUNNING, claim.epoch, False
        self.held[number][claim.job.id] = (claim.epoch, claim.next_index)

    def end_late_ones(self) -> None:
        """Those that a claim met on its way have ended."""
        for job_id in self.open_jobs(JobStatus.WAITING):
            if self.lives[job_id].late:
                self.lives[job_id].status = self.runner.run(self.api.state(job_id)).status

    @precondition(lambda self: any(self.held))
    @rule(choice=st.randoms(use_true_random=False), repeated=st.booleans())
    def step(self, choice: Any, repeated: bool) -> None:
        """One engine step of a worker that holds something: tokens for some, an end for a few."""
        number = choice.choice([n for n in range(WORKERS) if self.held[n]])
        rows: list[Row] = []
        for job_id, (epoch, next_index) in self.held[number].items():
            count = choice.randrange(0, 4)
            if count:
                ids = tuple(range(next_index, next_index + count))
                rows.append(Row(job_id, epoch, Tokens(job_id, next_index, ids, f"{epoch}")))
            if choice.random() < 0.2:
                rows.append(Row(job_id, epoch, finished(job_id, next_index + count)))
        refused = {one.job_id: one.reason for one in self.workers[number].append(QUEUE, rows)}
        if repeated:  # the answer was lost
            again = self.workers[number].append(QUEUE, rows)
            assert {one.job_id: one.reason for one in again} == refused
        expected: dict[str, str] = {}
        for row in rows:
            if row.job_id in expected:
                continue
            if reason := self.refused_as(row.job_id, row.epoch):
                expected[row.job_id] = reason
                del self.held[number][row.job_id]
                continue
            life = self.lives[row.job_id]
            life.written.append((row.epoch, row.event.index))
            if isinstance(row.event, Tokens):
                life.next_index += len(row.event.token_ids)
                self.held[number][row.job_id] = (row.epoch, life.next_index)
            else:
                self.end(row.job_id, JobStatus.FINISHED)
                del self.held[number][row.job_id]
        assert refused == expected

    @rule(number=st.integers(0, WORKERS - 1))
    def renew(self, number: int) -> None:
        held = {job_id: epoch for job_id, (epoch, _) in self.held[number].items()}
        refused = {one.job_id: one.reason for one in self.workers[number].renew(QUEUE, held)}
        expected = {
            job_id: reason
            for job_id, epoch in held.items()
            if (reason := self.refused_as(job_id, epoch))
        }
        assert refused == expected
        for job_id in refused:
            del self.held[number][job_id]

    @precondition(lambda self: any(self.held))
    @rule(choice=st.randoms(use_true_random=False))
    def release(self, choice: Any) -> None:
        number = choice.choice([n for n in range(WORKERS) if self.held[n]])
        job_id = choice.choice(sorted(self.held[number]))
        epoch, _ = self.held[number].pop(job_id)
        life = self.lives[job_id]
        mine = life.epoch == epoch
        was_running = mine and life.status is JobStatus.RUNNING
        if was_running and self.refused_as(job_id, epoch) is None:
            life.status, life.returned = JobStatus.WAITING, True
        released = self.workers[number].release(QUEUE, job_id, epoch)
        assert released == (was_running or (mine and life.status is JobStatus.WAITING))

    @precondition(lambda self: self.open_jobs(JobStatus.RUNNING))
    @rule(choice=st.randoms(use_true_random=False))
    def lease_runs_out(self, choice: Any) -> None:
        """A worker is dead or stands still; it may come back with what it holds."""
        job_id = choice.choice(sorted(self.open_jobs(JobStatus.RUNNING)))
        self.redis.zadd(f"{PREFIX}leases", {job_id: 1}, xx=True)
        life = self.lives[job_id]
        if self.refused_as(job_id, life.epoch) is None:
            life.lost += 1
            poison = life.lost >= MAX_ATTEMPTS
            life.status = JobStatus.FAILED if poison else JobStatus.WAITING
            life.returned = not poison
        self.reap()

    @rule()
    def reap(self) -> None:
        self.redis.hdel(f"{PREFIX}counters", "reaped")  # no need to wait for its turn
        self.workers[0].reap(QUEUE)
        for job_id in self.open_jobs():
            if self.lives[job_id].late:
                self.end(job_id, JobStatus.EXPIRED)
        waiting = len(self.open_jobs(JobStatus.WAITING))
        assert self.redis.llen(QUEUE) == waiting

    @precondition(lambda self: self.lives)
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice: Any) -> None:
        job_id = choice.choice(sorted(self.lives))
        life = self.lives[job_id]
        answer = self.runner.run(self.api.cancel(job_id))
        if life.status is JobStatus.RUNNING:
            assert answer == "requested"
            life.cancel = True
            return
        if life.status is JobStatus.WAITING:
            life.status = JobStatus.CANCELLED
        assert answer == life.status.value

    @precondition(lambda self: self.open_jobs())
    @rule(choice=st.randoms(use_true_random=False))
    def deadline_passes(self, choice: Any) -> None:
        job_id = choice.choice(sorted(self.open_jobs()))
        self.redis.hset(keys.job(QUEUE, job_id), "deadline", 1)
        self.redis.zadd(f"{PREFIX}deadlines", {job_id: 1}, xx=True)
        self.lives[job_id].late = True

    @rule()
    def redis_forgets_its_scripts(self) -> None:
        self.redis.script_flush()

    # -- what must hold

    @invariant()
    def the_counts_agree(self) -> None:
        depth = self.runner.run(self.api.depth(QUEUE))
        assert depth.waiting_jobs == len(self.open_jobs(JobStatus.WAITING))
        assert depth.running == len(self.open_jobs(JobStatus.RUNNING))

    def check(self, job_id: str, life: Life) -> list[Any]:
        """A job's journal: gapless, of ordered epochs, and with exactly one end if it ended."""
        events = journal.read(self.redis, QUEUE, job_id)
        index = 0
        for event in events:
            assert event.index == index
            index += len(event.token_ids) if isinstance(event, Tokens) else 0
        assert index == life.next_index
        ends = [event for event in events if isinstance(event, Finished | Failed)]
        assert len(ends) == 1
        assert events[-1] is ends[0]
        by_workers = events if life.status is JobStatus.FINISHED else events[:-1]
        assert [event.index for event in by_workers] == [index for _, index in life.written]
        told = [int(event.text) for event in by_workers if isinstance(event, Tokens)]
        assert told == sorted(told)
        return events

    def teardown(self) -> None:
        try:
            for job_id in self.open_jobs():
                self.runner.run(self.api.cancel(job_id))
            for number in range(WORKERS):  # the undead try once more
                for job_id, (epoch, next_index) in list(self.held[number].items()):
                    self.workers[number].append(
                        QUEUE, [Row(job_id, epoch, finished(job_id, next_index))]
                    )
            for job_id in self.open_jobs():
                self.redis.zadd(f"{PREFIX}leases", {job_id: 1}, xx=True)
            self.redis.hdel(f"{PREFIX}counters", "reaped")
            self.workers[0].reap(QUEUE)
            for job_id, life in self.lives.items():
                state = self.runner.run(self.api.state(job_id))
                assert state.status in TERMINAL_STATUSES
                if life.status in TERMINAL_STATUSES:
                    assert state.status is life.status
            journals = {job_id: self.check(job_id, life) for job_id, life in self.lives.items()}
            assert self.heard() == {
                job_id: [event.index for event in events] for job_id, events in journals.items()
            }
            self.nothing_is_left()
        finally:
            self.pubsub.close()
            self.redis.close()
            self.runner.run(self.async_redis.aclose())
            self.runner.close()

    def heard(self) -> dict[str, list[int]]:
        """What was published, in order, by job: the same as the journals, once."""
        end = uuid.uuid4().hex
        self.redis.publish(CHANNEL, json.dumps(end))
        heard: dict[str, list[int]] = {job_id: [] for job_id in self.lives}
        while True:
            message = self.pubsub.get_message(timeout=5)
            assert message is not None
            events = json.loads(message["data"])
            if events == end:
                return heard
            for event in events:
                heard[event["job_id"]].append(event["index"])

    def nothing_is_left(self) -> None:
        for key in self.redis.scan_iter():
            name = key.decode()
            kind = name.removeprefix(PREFIX).removeprefix("penstock:").split(":")[0]
            assert kind in {"job", "journal", "claim", "served", "counters", "locate"}, name
            assert self.redis.ttl(key) > 0, name
        assert self.redis.hget(f"{PREFIX}counters", "tokens") is None


def test_every_life_of_a_job(redis_settings: Settings) -> None:
    run_state_machine_as_test(
        cast("Any", lambda: Machine(redis_settings)),
        settings=settings(
            max_examples=20 * EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=cast("Any", list(HealthCheck)),
        ),
    )
