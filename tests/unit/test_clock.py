"""The fleet's clock: what Redis says, carried on by the monotonic clock."""

from __future__ import annotations

import time

import pytest

from penstock.clock import FleetClock


def heard(clock: FleetClock, told_s: float, *, took_s: float = 0.0) -> None:
    """Let Redis say a time, after `took_s` of waiting for its answer."""
    clock.hear(divmod(int(told_s * 1e6), 1_000_000), time.monotonic() - took_s)


def test_before_redis_is_heard_it_is_this_machines_clock() -> None:
    clock = FleetClock()
    assert clock.now_s() == pytest.approx(time.time(), abs=0.1)
    assert not clock.is_fresh


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_step_of_this_machines_clock_moves_nothing(
    hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FleetClock()
    before_s, wall = clock.now_s(), time.time
    monkeypatch.setattr(time, "time", lambda: wall() + hours * 3600)
    assert clock.now_s() == pytest.approx(before_s, abs=0.1)


def test_redis_is_believed() -> None:
    clock = FleetClock()
    heard(clock, 1_000.25)
    assert clock.now_s() == pytest.approx(1_000.25, abs=0.05)
    assert clock.now_ms() == pytest.approx(1_000_250, abs=50)
    assert clock.now_ns() == pytest.approx(1_000.25e9, abs=5e7)
    assert clock.is_fresh


def test_a_slow_answer_does_not_push_it_about() -> None:
    clock = FleetClock()
    heard(clock, 1_000.0)
    heard(clock, 999.0, took_s=4.0)  # said at any time within the last four seconds
    assert clock.now_s() == pytest.approx(1_000.0, abs=0.05)
    heard(clock, 990.0, took_s=4.0)
    assert clock.now_s() == pytest.approx(992.0, abs=0.05)
