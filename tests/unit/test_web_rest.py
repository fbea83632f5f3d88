"""A worker that is told to rest: no bell is taken until it is told to go on."""

from __future__ import annotations

import pytest

from tests.unit.test_workers_heartbeat import Desk as HeartbeatDesk
from tests.unit.test_workers_pool import Desk
from workers.held import Outcome


def tell(desk: Desk, *, rest: bool) -> None:
    desk.station.resting = rest
    desk.pool.rest_changed()


@pytest.mark.parametrize("slots", [{"a": 2}, {"a": 2, "b": 1}])
def test_a_resting_worker_consumes_nothing_and_then_again(slots: dict[str, int]):
    desk = Desk(**slots)
    queues = set(desk.consumer.queues)
    tell(desk, rest=True)
    assert desk.consumer.queues == set()
    tell(desk, rest=False)
    assert desk.consumer.queues == queues


def test_a_bell_that_comes_to_a_resting_worker_is_put_back_for_others():
    desk = Desk(a=2)
    tell(desk, rest=True)
    desk.ring("a-cpu")
    assert desk.rejected == ["a-cpu"]
    assert desk.station.tickets == []


def test_a_slot_that_becomes_free_takes_no_bell_of_its_own_while_resting():
    desk = Desk(a=1, b=1)
    desk.ring("a-cpu")
    assert "a-cpu" not in desk.consumer.queues  # full
    tell(desk, rest=True)
    desk.station.tickets[0].done(Outcome.ENDED)
    assert len(desk.station.tickets) == 1
    tell(desk, rest=False)
    assert desk.consumer.queues == {"a-cpu", "b-cpu"}
    desk.ring("a-cpu")
    assert len(desk.station.tickets) == 2


def test_a_full_queue_goes_on_when_a_slot_is_free_not_when_the_rest_ends():
    desk = Desk(a=1, b=1)
    desk.ring("a-cpu")
    tell(desk, rest=True)
    tell(desk, rest=False)
    assert desk.consumer.queues == {"b-cpu"}
    desk.station.tickets[0].done(Outcome.ENDED)
    desk.station.tickets[1].done(Outcome.EMPTY)
    assert desk.consumer.queues == {"a-cpu", "b-cpu"}


def test_the_heartbeat_hands_the_operators_wish_on():
    desk = HeartbeatDesk()
    desk.announcer.asked_to_rest = True
    desk.heartbeat.beat()
    desk.announcer.asked_to_rest = False
    desk.heartbeat.announce_soon()
    desk.heartbeat.beat()
    assert desk.rests == [True, False]
