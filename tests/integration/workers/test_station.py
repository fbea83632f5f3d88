"""The station over a real Redis, with engines that do only what the test says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.engine.events import AttemptEvent
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.processes import cards
from tests.unit.workers.fakes import FakeEngine, Slips, make_served
from workers.serving.claimed_jobs import Outcome, Ticket
from workers.serving.served_queue import ServedQueue, Sink
from workers.serving.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from penstock.contract.events import Event
    from penstock.engine.sequence import SequenceRequest
    from penstock.settings import Settings
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(
    reason="leases and patience of a second or less, beside three other tests"
)

A, B = "a-cpu", "b-cpu"


class Desk:
    def __init__(self, store: redis.Redis, settings: Settings) -> None:
        self.stops = 0
        self.settings = settings.model_copy(update={"drain_s": 0.2, "heartbeat_s": 0.05})
        self.worker = Worker(
            settings=self.settings,
            store=store,
            worker_id="station:1:test",
            open_queues=self._open,
        )
        self.worker.start(self)

    def _open(self, publish: Callable[[list[AttemptEvent]], None]) -> list[ServedQueue]:
        served_queues = [make_served(A), make_served(B)]
        for served in served_queues:
            served.sink = Sink(publish)
        return served_queues

    # A `Delivery`, of which only the stop matters here.

    def request_stop(self) -> None:
        self.stops += 1

    def wake(self) -> None: ...

    def opened(self, queue: str, is_open: bool) -> None: ...

    def rest_changed(self) -> None: ...

    def consume(self, queue: str, wanted: bool) -> None: ...

    @property
    def metrics_url(self) -> str:
        return self.worker.metrics_url

    def engine(self, queue: str) -> FakeEngine:
        engine = self.worker.served_queues[queue].engine
        assert isinstance(engine, FakeEngine)
        return engine

    def take(self, queue: str) -> Slips:
        slips = Slips()
        self.worker.take(Ticket(queue, slips))
        return slips

    def emit(self, queue: str, request: SequenceRequest, *events: Event) -> None:
        """Have a queue's engine emit events of an attempt."""
        emitted = [AttemptEvent(request.attempt_id, event) for event in events]
        self.worker.served_queues[queue].sink(emitted)

    def drain(self) -> None:
        self.worker.drain(in_a_hurry=lambda: False, pump=lambda: None)


@pytest.fixture
def desk(redis_client: redis.Redis, redis_settings: Settings) -> Iterator[Desk]:
    desk = Desk(redis_client, redis_settings)
    yield desk
    if not desk.worker.draining or cards(str(redis_settings.redis_url)):
        desk.drain()
    redis_client.delete(A, B)


def finished(job_id: str, index: int) -> Finished:
    return Finished(job_id, index, FinishReason.STOP, Usage(1, index))


async def test_a_job_from_its_bell_to_its_end(desk: Desk, submitter: Submitter):
    job_id = await submitter.submit(A)
    slips = desk.take(A)
    (request,) = wait_until(lambda: desk.engine(A).submitted)
    assert (request.job_id, request.attempt_id) == (job_id, f"{job_id}:1")
    desk.emit(A, request, Tokens(request.job_id, 0, (5,), "five", prompt_tokens=1))
    desk.emit(A, request, finished(request.job_id, 1))
    answer = await submitter.answer(A, job_id)
    assert answer.text == "five"
    assert answer.end.job_id == job_id
    wait_until(lambda: slips.outcomes == [Outcome.ENDED])


async def test_leases_are_kept_while_the_engine_is_silent(desk: Desk, submitter: Submitter):
    job_id = await submitter.submit(A)
    desk.take(A)
    wait_until(lambda: desk.engine(A).submitted)
    lease_s = desk.settings.lease_ms / 1000
    with pytest.raises(AssertionError):
        await wait_until_async(lambda: requeued(submitter, job_id), lease_s * 4)


async def requeued(submitter: Submitter, job_id: str) -> bool:
    await submitter.queue.reap(A)
    return (await submitter.queue.state(job_id)).status == "waiting"


async def test_a_cancelled_job_is_aborted_without_a_word_of_the_engine(
    desk: Desk, submitter: Submitter
):
    job_id = await submitter.submit(A)
    slips = desk.take(A)
    wait_until(lambda: desk.engine(A).submitted)
    await submitter.queue.cancel(job_id)
    wait_until(lambda: desk.engine(A).aborted == [f"{job_id}:1"])
    assert slips.outcomes == [Outcome.ENDED]


async def test_a_drain_hands_back_what_did_not_end_with_all_that_was_emitted(
    desk: Desk, submitter: Submitter, redis_url: str
):
    job_id = await submitter.submit(A)
    slips = desk.take(A)
    (request,) = wait_until(lambda: desk.engine(A).submitted)
    desk.emit(A, request, Tokens(request.job_id, 0, (5,), "five", prompt_tokens=1))
    desk.worker.begin_drain()
    wait_until(lambda: [card.draining for card in cards(redis_url)] == [True])
    late = desk.take(A)
    desk.drain()
    state = await submitter.queue.state(job_id)
    assert (state.status, state.next_index, state.lost) == ("waiting", 1, 0)
    assert slips.outcomes == [Outcome.ENDED]
    assert cards(redis_url) == []
    assert desk.worker.exit_code == 0
    assert late.outcomes in ([], [Outcome.PUT_BACK])


async def test_jobs_of_a_dead_engine_are_left_to_their_leases_and_the_others_handed_back(
    desk: Desk, submitter: Submitter
):
    jobs = {queue: await submitter.submit(queue) for queue in (A, B)}
    slips = {queue: desk.take(queue) for queue in jobs}
    for queue in jobs:
        wait_until(lambda queue=queue: desk.engine(queue).submitted)
    desk.engine(A).failure = RuntimeError("no device")
    wait_until(lambda: desk.stops == 1)
    assert desk.worker.draining
    desk.drain()
    assert desk.worker.exit_code == os.EX_SOFTWARE
    assert (await submitter.queue.state(jobs[B])).status == "waiting"
    left = await submitter.queue.state(jobs[A])
    # Not handed back: its lease still runs, or has just run out on a busy machine.
    assert (left.status, left.lost) in [("running", 0), ("waiting", 1)]
    await wait_until_async(lambda: requeued(submitter, jobs[A]))
    assert (await submitter.queue.state(jobs[A])).lost == 1
    assert [slip.outcomes for slip in slips.values()] == [[Outcome.ENDED]] * 2


async def test_a_job_that_comes_back_to_the_same_process_differs_from_its_old_attempt(
    desk: Desk, submitter: Submitter
):
    job_id = await submitter.submit(A)
    first = desk.take(A)
    (old,) = wait_until(lambda: desk.engine(A).submitted)
    # Its lease ran out while the process stood still, and the reaper was quicker than the renewal.
    desk.worker._jobs.release(A, job_id, 1)
    desk.take(A)
    _, new = wait_until(lambda: len(desk.engine(A).submitted) == 2 and desk.engine(A).submitted)
    assert (new.job_id, new.attempt_id) == (job_id, f"{job_id}:2")
    assert old.attempt_id in desk.engine(A).aborted
    assert first.outcomes == [Outcome.ENDED]
    desk.emit(A, old, Tokens(old.job_id, 0, (9,), "nine", prompt_tokens=1))
    desk.emit(A, new, Tokens(new.job_id, 0, (5,), "five", prompt_tokens=1), finished(new.job_id, 1))
    assert (await submitter.answer(A, job_id)).text == "five"
