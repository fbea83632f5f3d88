from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contract.events import Tokens
from penstock.errors import StoreUnavailable
from penstock.transport.replies.follower import BUFFER_EVENTS, Follower
from tests.fixtures.jobs import QUEUE, finished, tokens

if TYPE_CHECKING:
    from penstock.contract.events import Event


def caught_up() -> Follower:
    follower = Follower(QUEUE, "j", 60.0)
    follower.stale = False
    return follower


def indices(events: list[Event]) -> list[int]:
    return [event.index for event in events]


def test_it_starts_with_the_journal() -> None:
    follower = Follower(QUEUE, "j", 60.0)
    follower.deliver(tokens("j", 0))
    assert follower.stale
    assert not follower.has_live_events()


def test_live_events_in_order() -> None:
    follower = caught_up()
    for event in (tokens("j", 0, count=3), tokens("j", 3), finished("j", 4)):
        follower.deliver(event)
    assert indices(follower.take_live()) == [0, 3, 4]
    assert follower.take_live() == []
    assert not follower.stale


def test_a_gap_makes_it_stale_after_what_comes_before_it() -> None:
    follower = caught_up()
    for index in (0, 1, 3, 4):
        follower.deliver(tokens("j", index))
    assert indices(follower.take_live()) == [0, 1]
    assert follower.stale
    assert indices(follower.take_journal([tokens("j", index) for index in range(5)])) == [2, 3, 4]


def test_past_its_bound_it_keeps_nothing() -> None:
    follower = caught_up()
    for index in range(BUFFER_EVENTS + 1):
        follower.deliver(tokens("j", index))
    assert follower.stale
    assert follower.take_live() == []


async def test_waking_before_waiting_and_after() -> None:
    follower = caught_up()
    follower.wake()  # nobody waits
    waiting = asyncio.create_task(follower.wait())
    await asyncio.sleep(0)
    follower.deliver(tokens("j", 0))
    follower.deliver(tokens("j", 1))
    await asyncio.wait_for(waiting, 1)


@given(st.lists(st.tuples(st.sampled_from(("deliver", "lose", "take", "read")), st.integers(1, 3))))
def test_whatever_is_lost_or_repeated_each_event_comes_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    follower = caught_up()
    journal: list[Event] = []
    given_out: list[Event] = []
    index = 0
    for step, count in steps:
        if step in ("deliver", "lose"):
            event = tokens("j", index, count=count)
            index += count
            journal.append(event)
            if step == "deliver":
                for _ in range(count):
                    follower.deliver(event)
        elif step == "take":
            given_out += follower.take_live()
        elif follower.stale:
            follower.stale = False
            given_out += follower.take_journal(journal)
    given_out += follower.take_live()
    follower.miss()
    given_out += follower.take_journal(journal)
    assert given_out == journal


def lost_after_two() -> Follower:
    """A follower that has given out two tokens when its job is lost."""
    follower = caught_up()
    for index in range(2):
        follower.deliver(tokens("j", index))
    assert indices(follower.take_live()) == [0, 1]
    follower.lose()
    follower.begin_again()
    assert follower.stale
    assert not follower.gone
    return follower


def test_a_job_that_is_made_again_goes_on_where_its_client_is() -> None:
    follower = lost_after_two()
    assert follower.take_journal([tokens("j", 0)]) == []
    assert indices(follower.take_journal([tokens("j", 1), tokens("j", 2)])) == [2]
    follower.stale = False
    follower.deliver(finished("j", 3))
    assert indices(follower.take_live()) == [3]


@pytest.mark.parametrize(
    "event",
    [Tokens("j", 0, (7,), "other"), tokens("j", 0, count=3), finished("j", 0)],
    ids=["another token", "more at once", "an earlier end"],
)
def test_a_job_that_comes_out_differently_is_no_answer(event: Event) -> None:
    follower = lost_after_two()
    with pytest.raises(StoreUnavailable, match="lost"):
        follower.take_journal([event])


def test_a_client_whose_part_nobody_knows_is_told() -> None:
    follower = Follower(QUEUE, "j", 60.0)
    follower.resume_at(5)
    follower.lose()
    with pytest.raises(StoreUnavailable, match="lost"):
        follower.begin_again()
