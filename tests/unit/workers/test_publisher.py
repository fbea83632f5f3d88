"""The publisher: order, coalescing, backpressure, patience, refusals."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Failed, Tokens
from penstock.engine.events import AttemptEvent
from penstock.errors import StoreUnavailable
from penstock.transport.jobs.queue import Refusal, Row
from tests.fixtures.jobs import wait_until
from tests.unit.workers.fakes import FakeHooks, Slips, claimed_job
from workers.serving.claimed_jobs import ClaimedJobs
from workers.serving.publisher import STEPS_BEHIND, Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeQueue:
    """Notes calls; fails while `away`, waits while `closed`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Row]]] = []
        self.refusals: list[Refusal] = []
        self.away = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def append(self, queue: str, rows: list[Row]) -> list[Refusal]:
        self.entered.set()
        self.open.wait(10)
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        self.calls.append((queue, rows))
        return self.refusals


class Desk:
    def __init__(self) -> None:
        self.queue: Any = FakeQueue()
        self.claimed = ClaimedJobs()
        self.hooks = FakeHooks(self.claimed)
        self.publisher = Publisher(claimed=self.claimed, jobs=self.queue, hooks=self.hooks)
        self.publisher.start()

    def hold(self, job_id: str, queue: str = "a-cpu", epoch: int = 1) -> str:
        claimed = claimed_job(job_id, queue, epoch, Slips())
        self.claimed.add(claimed)
        return claimed.attempt_id

    def indexes(self) -> list[int]:
        return [row.event.index for _, rows in self.queue.calls for row in rows]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.queue.open.set()
    desk.publisher.close()
    desk.publisher.join(5)
    assert not desk.publisher.is_alive()


def tokens(attempt_id: str, index: int) -> AttemptEvent:
    job_id, _, _ = attempt_id.rpartition(":")
    return AttemptEvent(attempt_id, Tokens(job_id, index, (7,), "x"))


def failed(attempt_id: str, index: int) -> AttemptEvent:
    job_id, _, _ = attempt_id.rpartition(":")
    return AttemptEvent(attempt_id, Failed(job_id, index, "engine_failed", "no"))


def test_events_are_written_under_the_job_and_its_epoch(desk: Desk):
    attempt = desk.hold("one", epoch=3)
    desk.publisher.put([tokens(attempt, 0)])
    assert desk.publisher.flush(5)
    assert desk.queue.calls == [("a-cpu", [Row("one", 3, Tokens("one", 0, (7,), "x"))])]


def test_steps_share_a_call_when_it_is_behind_and_keep_their_order(desk: Desk):
    first, second = desk.hold("one"), desk.hold("two", "b-cpu")
    desk.queue.open.clear()
    desk.publisher.put([tokens(first, 0)])
    desk.queue.entered.wait(5)
    for index in range(1, 20):
        desk.publisher.put([tokens(first, index), tokens(second, index)])
    desk.queue.open.set()
    assert desk.publisher.flush(5)
    assert [queue for queue, _ in desk.queue.calls] == ["a-cpu", "a-cpu", "b-cpu"]
    assert desk.indexes() == [0, *range(1, 20), *range(1, 20)]


def test_an_engine_is_held_up_when_it_is_far_behind(desk: Desk):
    attempt = desk.hold("one")
    desk.queue.open.clear()
    desk.publisher.put([tokens(attempt, 0)])
    desk.queue.entered.wait(5)
    put = []

    def engine() -> None:
        for index in range(1, STEPS_BEHIND + 10):
            desk.publisher.put([tokens(attempt, index)])
            put.append(index)

    thread = threading.Thread(target=engine, daemon=True)
    thread.start()
    wait_until(lambda: len(put) == STEPS_BEHIND)
    thread.join(0.2)
    assert thread.is_alive()
    desk.queue.open.set()
    thread.join(5)
    assert desk.publisher.flush(5)
    assert desk.indexes() == list(range(STEPS_BEHIND + 10))


def test_an_absent_redis_is_waited_for_without_end(desk: Desk):
    attempt = desk.hold("one")
    desk.queue.away = 2
    desk.publisher.put([tokens(attempt, 0)])
    assert desk.publisher.flush(10)
    assert desk.indexes() == [0]


def test_a_terminal_event_ends_the_job_once_it_is_written(desk: Desk):
    attempt = desk.hold("one")
    desk.publisher.put([failed(attempt, 0)])
    assert desk.publisher.flush(5)
    assert (desk.hooks.ended, desk.hooks.lost) == (["one:1"], [])


def test_a_refused_job_is_lost_and_nothing_of_it_counts_as_ended(desk: Desk):
    attempt = desk.hold("one")
    desk.queue.refusals = [Refusal("one", "fenced")]
    desk.publisher.put([tokens(attempt, 0), failed(attempt, 1)])
    assert desk.publisher.flush(5)
    assert set(desk.hooks.lost) == {"one:1"}
    assert desk.hooks.ended == []


def test_events_of_an_attempt_that_is_not_held_are_dropped(desk: Desk):
    old = desk.hold("one", epoch=1)
    new = desk.hold("one", epoch=2)
    desk.claimed.pop(old)
    desk.publisher.put([tokens(old, 0), tokens(new, 5)])
    assert desk.publisher.flush(5)
    assert [(row.epoch, row.event.index) for _, rows in desk.queue.calls for row in rows] == [
        (2, 5)
    ]


def test_closing_lets_go_of_an_engine_that_waits(desk: Desk):
    attempt = desk.hold("one")
    desk.queue.away = 10**6
    thread = threading.Thread(
        target=lambda: [desk.publisher.put([tokens(attempt, i)]) for i in range(STEPS_BEHIND * 3)],
        daemon=True,
    )
    thread.start()
    assert not desk.publisher.flush(0.1)
    desk.publisher.close()
    thread.join(5)
    assert not thread.is_alive()
