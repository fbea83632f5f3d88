"""Spare places: how many returned jobs a full lane takes, and when it looks for them."""

from __future__ import annotations

import msgspec

from tests.unit.workers.fakes import FakeHooks, make_served
from workers.serving.claimed_jobs import Outcome
from workers.serving.overflow_slots import OverflowSlots

QUEUE = "a-cpu"


class Desk:
    def __init__(self, spare: int) -> None:
        served = make_served(QUEUE, slots=2)
        served.card = msgspec.structs.replace(served.card, spare_slots=spare)
        self.hooks = FakeHooks()
        self.places = OverflowSlots([served], self.hooks)


def test_a_look_that_finds_nothing_leaves_the_place_and_may_be_repeated():
    desk = Desk(1)
    for number in range(3):
        desk.places.look(QUEUE)
        desk.places.look(QUEUE)
        assert len(desk.hooks.tickets) == number + 1
        desk.hooks.tickets[-1].done(Outcome.EMPTY)


def test_where_there_was_one_the_next_is_looked_for_until_the_places_are_taken():
    desk = Desk(2)
    desk.places.look(QUEUE)
    desk.hooks.tickets[0].claimed()
    desk.hooks.tickets[1].claimed()
    desk.places.look(QUEUE)
    assert len(desk.hooks.tickets) == 2
    desk.hooks.tickets[0].done(Outcome.ENDED)
    desk.places.look(QUEUE)
    assert len(desk.hooks.tickets) == 3


def test_it_asks_for_nothing_but_returned_jobs_and_needs_no_bell():
    desk = Desk(1)
    desk.places.look(QUEUE)
    assert [(one.only_returned, one.has_bell) for one in desk.hooks.tickets] == [(True, False)]


def test_a_lane_without_spare_places_never_looks():
    desk = Desk(0)
    desk.places.look(QUEUE)
    assert desk.hooks.tickets == []


def test_a_put_back_look_may_be_repeated():
    desk = Desk(1)
    desk.places.look(QUEUE)
    desk.hooks.tickets[0].done(Outcome.PUT_BACK)
    desk.places.look(QUEUE)
    assert len(desk.hooks.tickets) == 2
