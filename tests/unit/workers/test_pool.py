"""The pool's account of slots and bells, with Celery's consumer and the station stood in for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject
from celery.worker import state

from tests.unit.workers.fakes import make_served
from workers.delivery.pool import REOPEN_S, EnginePool
from workers.delivery.tasks import DOORBELL
from workers.serving.claimed_jobs import Outcome, Ticket


class FakeChannel:
    def __init__(self) -> None:
        self.paused: frozenset[str] = frozenset()

    def pause(self, queues: frozenset[str]) -> None:
        self.paused = queues


class FakeHub:
    def __init__(self) -> None:
        self.timers: list[tuple[float, Any, tuple[Any, ...]]] = []

    def call_soon(self, function: Any) -> None:
        function()

    def call_later(self, delay_s: float, function: Any, *args: Any) -> None:
        self.timers.append((delay_s, function, args))


class FakeWorker:
    def __init__(self, slots: dict[str, int]) -> None:
        self.served_queues = {queue: make_served(queue, count) for queue, count in slots.items()}
        self.slots = sum(slots.values())
        self.draining = False
        self.resting = False
        self.tickets: list[Ticket] = []

    def takes(self, queue: str) -> bool:
        return queue in self.served_queues and self.served_queues[queue].open

    def take(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)

    def taken(self) -> dict[str, int]:
        return dict.fromkeys(self.served_queues, 0)


class Desk:
    def __init__(self, **slots: int) -> None:
        queues = {f"{name}-cpu": count for name, count in slots.items()}
        self.worker: Any = FakeWorker(queues)
        self.channel = FakeChannel()
        self.hub = FakeHub()
        self.acked: list[str] = []
        self.rejected: list[str] = []
        self.pool = EnginePool(1)
        self.pool.attach(
            self.worker,
            SimpleNamespace(
                consumer=SimpleNamespace(task_consumer=SimpleNamespace(channel=self.channel))
            ),
        )
        self.pool.register_with_event_loop(self.hub)

    def ring(self, queue: str) -> None:
        def on_failure(einfo: Any) -> None:
            assert isinstance(einfo.exception.exc, Reject)
            assert einfo.exception.exc.requeue
            self.rejected.append(queue)

        self.pool.on_apply(
            None,
            (DOORBELL, "id", {"delivery_info": {"routing_key": queue}}, b"", "json", "utf-8"),
            callback=lambda result: self.acked.append(queue),
            accept_callback=lambda pid, at: None,
            error_callback=on_failure,
        )

    def end(self, index: int, outcome: Outcome) -> None:
        self.worker.tickets[index].done(outcome)


def test_a_bell_is_acked_when_its_job_has_ended_and_not_before():
    desk = Desk(a=2)
    desk.ring("a-cpu")
    assert desk.acked == []
    desk.end(0, Outcome.ENDED)
    assert desk.acked == ["a-cpu"]


def test_a_bell_without_a_job_is_acked_at_once():
    desk = Desk(a=1)
    for index in range(3):
        desk.ring("a-cpu")
        desk.end(index, Outcome.EMPTY)
    assert desk.acked == ["a-cpu"] * 3
    assert desk.rejected == []


def test_the_pool_is_as_large_as_all_slots():
    assert Desk(a=2, b=3).pool.num_processes == 5


def test_every_bell_is_for_the_station_which_alone_knows_what_is_free():
    desk = Desk(a=1)
    for _ in range(3):
        desk.ring("a-cpu")
    assert len(desk.worker.tickets) == 3
    assert desk.rejected == []


def test_a_bell_for_a_full_lane_goes_back_at_once_and_delays_nothing():
    desk = Desk(a=1)
    desk.ring("a-cpu")
    desk.end(0, Outcome.FULL)
    assert (desk.acked, desk.rejected) == ([], ["a-cpu"])
    assert desk.channel.paused == frozenset()
    assert desk.hub.timers == []


def test_a_queue_that_the_station_looks_into_itself_is_not_consumed():
    desk = Desk(a=1, b=1)
    desk.pool.consume("a-cpu", False)
    assert desk.channel.paused == {"a-cpu"}
    desk.pool.consume("a-cpu", True)
    assert desk.channel.paused == frozenset()


def test_a_bell_that_could_not_be_looked_at_is_put_back_and_rests_for_a_while():
    desk = Desk(a=1)
    desk.ring("a-cpu")
    desk.end(0, Outcome.PUT_BACK)
    assert (desk.acked, desk.rejected) == ([], ["a-cpu"])
    assert desk.channel.paused == {"a-cpu"}
    ((delay_s, function, args),) = desk.hub.timers
    assert delay_s == REOPEN_S
    function(*args)
    assert desk.channel.paused == frozenset()


def test_a_queue_is_consumed_when_no_reason_against_it_is_left():
    desk = Desk(a=1)
    desk.pool.consume("a-cpu", False)
    desk.worker.resting = True
    desk.pool.rest_changed()
    desk.worker.resting = False
    desk.pool.rest_changed()
    assert desk.channel.paused == {"a-cpu"}
    desk.pool.consume("a-cpu", True)
    assert desk.channel.paused == frozenset()


def test_a_resting_worker_consumes_nothing_and_puts_back_what_comes():
    desk = Desk(a=1, b=1)
    desk.worker.resting = True
    desk.pool.rest_changed()
    assert desk.channel.paused == {"a-cpu", "b-cpu"}
    desk.ring("a-cpu")
    assert desk.rejected == ["a-cpu"]
    assert desk.worker.tickets == []


def test_a_bell_of_a_queue_that_is_not_served_is_put_back():
    desk = Desk(a=1)
    desk.ring("b-cpu")
    assert desk.rejected == ["b-cpu"]
    assert desk.worker.tickets == []


def test_a_draining_worker_does_not_consume_again_what_it_put_back():
    desk = Desk(a=1)
    desk.worker.draining = True
    desk.ring("a-cpu")
    desk.end(0, Outcome.PUT_BACK)
    assert desk.hub.timers == []
    assert desk.channel.paused == {"a-cpu"}


def test_after_a_reconnect_the_new_channel_hears_what_is_paused():
    desk = Desk(a=1, b=1)
    desk.pool.consume("a-cpu", False)
    desk.channel.paused = frozenset()
    desk.pool.register_with_event_loop(desk.hub)
    assert desk.channel.paused == {"a-cpu"}


def test_other_tasks_run_in_a_side_thread():
    desk = Desk(a=1)
    results: list[Any] = []
    desk.pool.on_apply(lambda *args: args, ("other", 1), callback=results.append)
    desk.pool.on_stop()
    assert results == [("other", 1)]


@pytest.mark.parametrize(
    ("flag", "hurry"), [(None, False), (False, False), (True, True), (1, True)]
)
def test_a_second_signal_makes_it_hurry(monkeypatch: pytest.MonkeyPatch, flag: object, hurry: bool):
    monkeypatch.setattr(state, "should_terminate", flag)
    assert Desk(a=1).pool.in_a_hurry() is hurry
