"""When a lane looks for jobs by itself and when Celery's bells are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.workers.fakes import FakeHooks, Slips, claimed_job, make_served
from workers.serving import polling as module
from workers.serving.claimed_jobs import ClaimedJobs
from workers.serving.polling import BURST_S, LOOK_S, MOST_AT_ONCE, Polling

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "a-cpu"


class Desk:
    def __init__(self, slots: int = 64, *, is_only: bool = True) -> None:
        self.now_s = 100.0
        self.claimed = ClaimedJobs()
        self.hooks = FakeHooks(self.claimed)
        self.served = make_served(QUEUE, slots)
        self.polling = Polling(self.served, self.claimed, self.hooks, is_only=is_only)
        self.count = 0

    def claim(self, count: int, *, waiting: int = 0, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.polling.due_s = None
        for _ in range(count):
            self.count += 1
            self.claimed.add(claimed_job(f"j{self.count}", QUEUE, 1, Slips(), served=self.served))
        self.polling.claimed(count, waiting)

    def find_none(self, *, waiting: int = 0, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.polling.due_s = None
        self.polling.found_none(waiting)


@pytest.fixture
def desk_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Desk]:
    def make(*args: int, **options: bool) -> Desk:
        desk = Desk(*args, **options)
        monkeypatch.setattr(module.time, "monotonic", lambda: desk.now_s)
        return desk

    return make


def test_jobs_that_come_one_by_one_are_left_to_celery(desk_of: Callable[..., Desk]):
    desk = desk_of()
    for _ in range(3):
        desk.claim(1, after_s=2 * BURST_S)
    assert desk.hooks.consumed == []
    assert desk.polling.due_s is None


@pytest.mark.parametrize("counts", [(2,), (1, 1)])
def test_a_burst_is_looked_into_until_none_comes(
    desk_of: Callable[..., Desk], counts: tuple[int, ...]
):
    desk = desk_of()
    for count in counts:
        desk.claim(count, after_s=BURST_S / 2)
    assert desk.hooks.consumed == [False]
    assert desk.polling.due_s == desk.now_s + LOOK_S
    desk.find_none(after_s=LOOK_S)
    assert desk.polling.due_s == desk.now_s + LOOK_S
    desk.find_none(after_s=BURST_S)
    assert desk.hooks.consumed == [False, True]
    assert desk.polling.due_s is None


def test_where_more_wait_the_next_look_is_due_at_once(desk_of: Callable[..., Desk]):
    desk = desk_of()
    desk.claim(MOST_AT_ONCE, waiting=5)
    assert desk.polling.due_s == desk.now_s


def test_a_full_lane_waits_for_a_slot(desk_of: Callable[..., Desk]):
    desk = desk_of(1)
    desk.claim(1)
    assert desk.hooks.consumed == [False]
    assert desk.polling.alone
    assert desk.polling.due_s is None


def test_what_is_left_to_other_workers_is_left_to_bells(desk_of: Callable[..., Desk]):
    desk = desk_of()
    desk.claim(3, waiting=0)
    desk.claim(2, waiting=4)
    assert desk.hooks.consumed == [False, True]
    desk.claim(1, waiting=3)
    assert desk.hooks.consumed == [False, True]
    desk.claim(1)
    desk.find_none(waiting=2)
    assert desk.hooks.consumed == [False, True, False, True]


def test_one_of_several_lanes_is_only_alone_when_full(desk_of: Callable[..., Desk]):
    desk = desk_of(4, is_only=False)
    desk.claim(3)
    assert desk.hooks.consumed == []
    desk.claim(1)
    assert desk.hooks.consumed == [False]


def test_a_job_that_is_left_to_another_worker_is_looked_for_in_time(desk_of: Callable[..., Desk]):
    desk = desk_of()
    desk.find_none(waiting=1)
    desk.polling.left(0.2)
    assert desk.polling.due_s == pytest.approx(desk.now_s + 0.2)
    assert desk.polling.owed
    assert not desk.polling.alone


def test_a_full_worker_owes_nothing(desk_of: Callable[..., Desk]):
    desk = desk_of(1)
    desk.claim(1)
    desk.polling.left(0.2)
    assert not desk.polling.owed
