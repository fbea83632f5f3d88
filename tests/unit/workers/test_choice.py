"""Which model a worker loads or unloads next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from workers.serving.on_demand.choice import (
    GIVE_WAY_S,
    LEAST_TURN_S,
    MOST_WEIGHT,
    TURN_LOADS,
    UNKNOWN_LOAD_S,
    Change,
    Standing,
    next_change,
    turn_s,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOW_S = 1_000.0


def model(queue: str, *, is_resident: bool = False, **fields: Any) -> Standing:
    stated = {"load_s": 2.0, "loaded_s": NOW_S - 1, "used_s": NOW_S - 1, **fields}
    return Standing(queue=queue, is_resident=is_resident, **stated)


def change(
    *standings: Standing, most: int = 1, fits: Callable[[str], bool] = lambda _queue: True
) -> Change | None:
    return next_change(standings, NOW_S, most=most, fits=fits)


def test_nothing_waits_and_nothing_changes():
    assert change(model("a", is_resident=True), model("b")) is None


def test_what_waits_is_loaded_into_a_free_place():
    assert change(model("a"), model("b", waiting=1)) == Change("b", loads=True)


def test_an_idle_model_gives_its_place_the_longest_unused_first():
    a = model("a", is_resident=True, used_s=NOW_S - 5)
    b = model("b", is_resident=True, used_s=NOW_S - 9)
    assert change(a, b, model("c", waiting=1), most=2) == Change("b", loads=False)


def test_a_model_in_use_keeps_its_place_for_its_turn():
    wanted = model("b", waiting=1, oldest_s=60.0, load_s=3.0)
    turn = TURN_LOADS * 3.0
    in_use = {"is_resident": True, "is_busy": True, "waiting": 4}
    assert change(model("a", loaded_s=NOW_S - turn + 0.1, **in_use), wanted) is None
    assert change(model("a", loaded_s=NOW_S - turn, **in_use), wanted) == Change("a", loads=False)


def test_better_priorities_have_longer_turns_within_bounds():
    wanted = model("b", waiting=1)
    same = turn_s(model("a", is_resident=True, waiting=1), wanted)
    better = turn_s(model("a", is_resident=True, waiting=1, priority=0), wanted)
    worse = turn_s(model("a", is_resident=True, waiting=1, priority=9), wanted)
    assert (better, worse) == (same * MOST_WEIGHT, same / MOST_WEIGHT)
    quick = model("a", is_resident=True, waiting=1, load_s=0.0)
    assert turn_s(quick, model("b", load_s=0.0)) == LEAST_TURN_S


def test_age_and_priority_decide_which_is_loaded():
    urgent = model("b", waiting=1, priority=2, oldest_s=1.0)
    old = model("c", waiting=1, priority=5, oldest_s=10.0)
    assert change(urgent, old) == Change("b", loads=True)
    older = model("c", waiting=1, priority=5, oldest_s=20.0)
    assert change(urgent, older) == Change("c", loads=True)


def test_work_is_left_to_a_worker_that_has_the_model_for_as_long_as_a_load_takes():
    assert change(model("b", waiting=1, claiming=1, oldest_s=1.9)) is None
    assert change(model("b", waiting=1, claiming=1, oldest_s=2.0)) == Change("b", loads=True)
    unknown = model("b", waiting=1, claiming=1, oldest_s=UNKNOWN_LOAD_S - 0.1, load_s=0.0)
    assert change(unknown) is None


def test_a_worker_with_room_goes_first():
    idle = model("a", is_resident=True)
    assert change(idle, model("b", waiting=1, loaders=1, oldest_s=0.3)) is None
    assert change(idle, model("b", waiting=1, loaders=1, oldest_s=GIVE_WAY_S)) == Change(
        "a", loads=False
    )
    assert change(model("b", waiting=1, loaders=1)) == Change("b", loads=True)


@pytest.mark.parametrize("field", [{"is_loading": True}, {"may_load": False}])
def test_what_is_not_loaded_here(field: dict[str, bool]):
    assert change(model("b", waiting=1, oldest_s=99.0, **field)) is None


def test_memory_is_made_before_a_load_and_the_load_decides_if_there_is_none_to_make():
    wanted = model("b", waiting=1)
    idle = model("a", is_resident=True)
    assert change(idle, wanted, most=2, fits=lambda _queue: False) == Change("a", loads=False)
    assert change(wanted, most=2, fits=lambda _queue: False) == Change("b", loads=True)


def test_a_pinned_model_stays():
    pinned = model("a", is_resident=True, is_pinned=True, used_s=0.0, keep_alive_s=1.0)
    assert change(pinned, model("b", waiting=1)) is None
    assert change(pinned, model("b", waiting=1), most=2) == Change("b", loads=True)


def test_an_unused_model_is_unloaded_in_time():
    kept = {"is_resident": True, "keep_alive_s": 30.0}
    assert change(model("a", used_s=NOW_S - 29, **kept)) is None
    assert change(model("a", used_s=NOW_S - 30, **kept)) == Change("a", loads=False)
    assert change(model("a", used_s=NOW_S - 30, is_busy=True, **kept)) is None
    assert change(model("a", used_s=0.0, is_resident=True)) is None
