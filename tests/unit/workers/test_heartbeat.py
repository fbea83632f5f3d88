"""The heartbeat: whose leases are kept, whose are not, and when the process must end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from penstock.errors import StoreUnavailable
from penstock.settings import Settings
from penstock.transport.jobs.queue import ReapResult, Refusal
from tests.unit.workers.fakes import FakeEngine, FakeHooks, Slips, claimed_job, make_served
from workers.serving.claimed_jobs import ClaimedJobs
from workers.serving.heartbeat import (
    HUNG_FOR_LONG,
    HURRIED_PAUSE_S,
    HURRY_S,
    SHORTEST_PAUSE_S,
    Heartbeat,
)
from workers.serving.served_queue import LEAST_HUNG_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.contract.worker import WorkerCard

HUNG_S = 10.0


class FakeQueue:
    def __init__(self) -> None:
        self.renewed: list[tuple[str, dict[str, int]]] = []
        self.reaped: list[str] = []
        self.refusals: list[Refusal] = []
        self.next_end_s: dict[str, float] = {}
        self.forgotten: list[tuple[str, list[str]]] = []

    def forget_heads(self, queue: str, digests: list[str]) -> None:
        self.forgotten.append((queue, digests))

    def renew(self, queue: str, claimed: Mapping[str, int]) -> list[Refusal]:
        self.renewed.append((queue, dict(claimed)))
        return self.refusals

    def reap(self, queue: str) -> ReapResult:
        self.reaped.append(queue)
        return ReapResult(next_end_s=self.next_end_s.get(queue))


class FakeAnnouncer:
    def __init__(self) -> None:
        self.cards: list[WorkerCard] = []
        self.asked_to_rest = False

    def announce(self, card: WorkerCard) -> bool:
        self.cards.append(card)
        return self.asked_to_rest


class Desk:
    def __init__(self) -> None:
        self.served_queues: dict[str, Any] = {
            queue: make_served(queue) for queue in ("a-cpu", "b-cpu")
        }
        self.claimed = ClaimedJobs()
        self.queue: Any = FakeQueue()
        self.announcer: Any = FakeAnnouncer()
        self.hooks = FakeHooks(self.claimed)
        self.heartbeat = Heartbeat(
            served_queues=self.served_queues,
            claimed=self.claimed,
            jobs=self.queue,
            announcer=self.announcer,
            settings=Settings(heartbeat_s=3600, hung_step_s=HUNG_S),
            hooks=self.hooks,
        )

    def hold(self, job_id: str, queue: str, epoch: int = 1) -> None:
        self.claimed.add(
            claimed_job(job_id, queue, epoch, Slips(), served=self.served_queues[queue])
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def hang(served: Any, for_s: float) -> None:
    served.engine.is_busy = True
    served.engine.step_s = time.monotonic() - for_s


def test_the_next_beat_comes_as_a_lease_ends_and_some_more_right_after(desk: Desk):
    quarter_s = Settings().lease_ms / 4000
    for ends, next_s in (
        ({}, quarter_s),
        ({"a-cpu": 1.9, "b-cpu": 1.6}, quarter_s),  # those of the living
        ({"a-cpu": 0.2, "b-cpu": 0.07}, 0.07),
        ({"b-cpu": 0.0}, SHORTEST_PAUSE_S),
        ({"a-cpu": 1.9}, HURRIED_PAUSE_S),
    ):
        desk.queue.next_end_s = ends
        desk.heartbeat.beat()
        assert desk.heartbeat._next_s == next_s
    desk.heartbeat._hurried_until_s -= HURRY_S
    desk.heartbeat.beat()
    assert desk.heartbeat._next_s == quarter_s


def test_what_was_just_written_or_renewed_is_not_renewed_again(desk: Desk):
    desk.hold("written", "a-cpu")
    desk.hold("silent", "a-cpu")
    desk.claimed.leased(["written:1"], time.monotonic())
    desk.heartbeat.beat()
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("a-cpu", {"silent": 1})]


def test_a_lease_is_renewed_again_after_a_quarter_of_it(desk: Desk):
    desk.hold("one", "a-cpu")
    quarter_s = Settings().lease_ms / 4000
    desk.claimed.leased(["one:1"], time.monotonic() - quarter_s)
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("a-cpu", {"one": 1})]


def test_every_held_job_is_renewed_with_its_epoch(desk: Desk):
    desk.hold("one", "a-cpu", 4)
    desk.hold("two", "b-cpu", 1)
    desk.hold("three", "b-cpu", 2)
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("a-cpu", {"one": 4}), ("b-cpu", {"two": 1, "three": 2})]


def test_a_refused_job_is_lost(desk: Desk):
    desk.hold("one", "a-cpu")
    desk.hold("two", "a-cpu")
    desk.queue.refusals = [Refusal("two", "cancelled")]
    desk.heartbeat.beat()
    assert desk.hooks.lost == ["two:1"]


def test_it_reaps_with_each_beat_and_announces_once_in_heartbeat_s_or_when_asked(desk: Desk):
    desk.heartbeat.beat()
    desk.heartbeat.beat()
    assert (len(desk.announcer.cards), desk.queue.reaped) == (1, ["a-cpu", "b-cpu"] * 2)
    desk.heartbeat.announce_soon()
    desk.heartbeat.beat()
    assert len(desk.announcer.cards) == 2


def test_what_a_cache_has_dropped_is_reported_with_the_card(desk: Desk):
    desk.heartbeat.beat()
    assert desk.queue.forgotten == [("a-cpu", []), ("b-cpu", [])]  # a reminder of the others
    desk.queue.forgotten.clear()
    engine = desk.served_queues["a-cpu"].engine
    assert isinstance(engine, FakeEngine)
    engine.gone = ["head"]
    desk.heartbeat.beat()
    assert desk.queue.forgotten == []
    desk.heartbeat.announce_soon()
    desk.heartbeat.beat()
    assert desk.queue.forgotten == [("a-cpu", ["head"])]


def test_an_adapter_that_left_memory_is_reported_like_a_prompt(desk: Desk):
    served = desk.served_queues["b-cpu"]
    served.adapters = Mock(lost_heads=Mock(return_value=["adapter"]))
    desk.heartbeat.beat()
    assert desk.queue.forgotten == [("a-cpu", []), ("b-cpu", ["adapter"])]


def test_what_cannot_be_reported_holds_nothing_up_and_is_reported_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    engine = desk.served_queues["a-cpu"].engine
    assert isinstance(engine, FakeEngine)
    engine.gone = ["head"]
    away = StoreUnavailable("Redis does not answer")
    with monkeypatch.context() as patch:
        patch.setattr(desk.queue, "forget_heads", Mock(side_effect=away))
        with pytest.raises(StoreUnavailable):
            desk.heartbeat.beat()
    assert (len(desk.announcer.cards), desk.queue.reaped) == (1, ["a-cpu", "b-cpu"])
    assert desk.hooks.looked == ["a-cpu", "b-cpu"]
    engine.gone = ["another"]
    desk.heartbeat.announce_soon()
    desk.heartbeat.beat()
    assert desk.queue.forgotten == [("a-cpu", ["head", "another"])]


def test_a_hung_engine_loses_its_leases_and_the_others_keep_theirs(desk: Desk):
    desk.hold("one", "a-cpu")
    desk.hold("two", "b-cpu")
    hang(desk.served_queues["a-cpu"], HUNG_S + 1)
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("b-cpu", {"two": 1})]
    assert desk.hooks.broken == []


def test_a_step_that_takes_many_times_what_steps_take_hangs_before_the_setting_is_reached(
    desk: Desk,
):
    desk.hold("one", "a-cpu")
    desk.served_queues["a-cpu"].engine.usual_s = 0.05
    hang(desk.served_queues["a-cpu"], LEAST_HUNG_S + 0.5)
    desk.heartbeat.beat()
    assert desk.queue.renewed == []
    assert desk.hooks.broken == []


@pytest.mark.parametrize("usual_s", [None, 0.15])
def test_a_slow_step_does_not_hang_where_steps_are_slow_or_unknown(
    desk: Desk, usual_s: float | None
):
    desk.hold("one", "a-cpu")
    desk.served_queues["a-cpu"].engine.usual_s = usual_s
    hang(desk.served_queues["a-cpu"], LEAST_HUNG_S + 0.5)
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("a-cpu", {"one": 1})]


def test_a_worker_with_a_hung_engine_rests_until_it_goes_on(desk: Desk):
    desk.heartbeat.beat()
    hang(desk.served_queues["a-cpu"], HUNG_S + 1)
    desk.heartbeat.beat()
    hang(desk.served_queues["a-cpu"], 0.0)
    desk.heartbeat.beat()
    assert desk.hooks.rests == [False, True, False]
    assert desk.hooks.broken == []


def test_after_a_stop_of_the_process_an_engine_has_its_time_again(desk: Desk):
    desk.hold("one", "a-cpu")
    hang(desk.served_queues["a-cpu"], HUNG_S * 10)
    desk.heartbeat._beaten_s = time.monotonic() - HUNG_S * 10
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("a-cpu", {"one": 1})]
    assert desk.hooks.broken == []


def test_an_engine_that_hangs_for_long_ends_the_process(desk: Desk):
    hang(desk.served_queues["b-cpu"], HUNG_S * HUNG_FOR_LONG + 1)
    desk.heartbeat.beat()
    assert [queue for queue, _ in desk.hooks.broken] == ["b-cpu"]


def test_an_engine_that_waits_for_redis_does_not_hang(desk: Desk):
    desk.hold("one", "a-cpu")
    hang(desk.served_queues["a-cpu"], HUNG_S * 10)
    desk.served_queues["a-cpu"].sink.blocked = True
    desk.heartbeat.beat()
    assert desk.queue.renewed == [("a-cpu", {"one": 1})]
    assert desk.hooks.broken == []


def test_an_engine_without_work_does_not_hang(desk: Desk):
    hang(desk.served_queues["a-cpu"], HUNG_S * 10)
    desk.served_queues["a-cpu"].engine.is_busy = False
    desk.heartbeat.beat()
    assert desk.hooks.broken == []


def test_every_beat_looks_for_what_dead_workers_held_but_not_for_an_engine_that_hangs(desk: Desk):
    desk.heartbeat.beat()
    hang(desk.served_queues["a-cpu"], HUNG_S + 1)
    desk.heartbeat.beat()
    assert desk.hooks.looked == ["a-cpu", "b-cpu", "b-cpu"]


def test_a_dead_engine_ends_the_process_and_its_jobs_are_left_to_their_leases(desk: Desk):
    desk.hold("one", "a-cpu")
    desk.served_queues["a-cpu"].engine.failure = RuntimeError("no device")
    desk.heartbeat.beat()
    assert desk.hooks.broken == [("a-cpu", "its engine has died: no device")]
    assert desk.queue.renewed == []
