"""A worker that is told to rest: no bell is taken until it is told to go on."""

from __future__ import annotations

import pytest

from tests.unit.workers.test_heartbeat import Desk as HeartbeatDesk
from tests.unit.workers.test_pool import Desk


def tell(desk: Desk, *, rest: bool) -> None:
    desk.worker.resting = rest
    desk.pool.rest_changed()


@pytest.mark.parametrize("slots", [{"a": 2}, {"a": 2, "b": 1}])
def test_a_resting_worker_consumes_nothing_and_then_again(slots: dict[str, int]):
    desk = Desk(**slots)
    tell(desk, rest=True)
    assert desk.channel.paused == set(desk.worker.served_queues)
    tell(desk, rest=False)
    assert desk.channel.paused == frozenset()


def test_a_bell_that_comes_to_a_resting_worker_is_put_back_for_others():
    desk = Desk(a=2)
    tell(desk, rest=True)
    desk.ring("a-cpu")
    assert desk.rejected == ["a-cpu"]
    assert desk.worker.tickets == []


def test_a_queue_that_the_station_looks_into_itself_is_not_consumed_when_the_rest_ends():
    desk = Desk(a=1, b=1)
    desk.pool.consume("a-cpu", False)
    tell(desk, rest=True)
    assert desk.channel.paused == {"a-cpu", "b-cpu"}
    tell(desk, rest=False)
    assert desk.channel.paused == {"a-cpu"}


def test_the_heartbeat_hands_the_operators_wish_on():
    desk = HeartbeatDesk()
    desk.announcer.asked_to_rest = True
    desk.heartbeat.beat()
    desk.announcer.asked_to_rest = False
    desk.heartbeat.announce_soon()
    desk.heartbeat.beat()
    assert desk.hooks.rests == [True, False]
