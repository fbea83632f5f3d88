"""What a step usually takes, and when nothing is known of it."""

from __future__ import annotations

from penstock.engine.pacing.step_watch import StepWatch


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def run(usual: StepWatch, clock: Clock, count: int, step_s: float) -> None:
    for _ in range(count):
        clock.now_s += step_s
        usual.add(step_s)


def test_nothing_is_reported_of_the_first_steps():
    clock = Clock()
    usual = StepWatch(clock)
    run(usual, clock, 63, 0.01)
    assert usual.longest_s(clock.now_s) is None
    run(usual, clock, 1, 0.02)
    assert usual.longest_s(clock.now_s) == 0.02


def test_a_longest_step_is_forgotten_after_hundreds():
    clock = Clock()
    usual = StepWatch(clock)
    run(usual, clock, 1, 3.0)
    run(usual, clock, 600, 0.01)
    assert usual.longest_s(clock.now_s) == 3.0
    run(usual, clock, 600, 0.01)
    assert usual.longest_s(clock.now_s) == 0.01


def test_the_first_step_after_a_break_is_not_judged_and_counting_starts_again():
    clock = Clock()
    usual = StepWatch(clock)
    run(usual, clock, 100, 0.01)
    assert usual.longest_s(clock.now_s + 11.0) is None
    clock.now_s += 11.0
    run(usual, clock, 1, 0.01)
    assert usual.longest_s(clock.now_s) is None
    run(usual, clock, 63, 0.01)
    assert usual.longest_s(clock.now_s) == 0.01


def test_a_long_step_is_no_break():
    clock = Clock()
    usual = StepWatch(clock)
    run(usual, clock, 100, 0.01)
    run(usual, clock, 1, 12.0)
    assert usual.longest_s(clock.now_s) == 12.0
