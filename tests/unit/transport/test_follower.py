from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contract.events import Failed, Tokens
from penstock.errors import StoreUnavailable
from penstock.transport.replies.follower import BUFFER_EVENTS, Follower
from tests.fixtures.jobs import QUEUE, finished, tokens

if TYPE_CHECKING:
    from penstock.contract.events import Event


def caught_up() -> Follower:
    follower = Follower(QUEUE, "j", 60.0)
    follower.stale = False
    return follower


def verified_after(count: int) -> Follower:
    """One that has given out so many tokens, and reads the journal to compare them."""
    follower = caught_up()
    for index in range(count):
        follower.deliver(tokens("j", index))
    follower.take_live()
    follower.verify()
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
    [Tokens("j", 0, (7,), "other"), Tokens("j", 0, (0, 1, 2), "other"), finished("j", 0)],
    ids=["another token", "another text", "an earlier end"],
)
def test_a_job_that_comes_out_differently_is_no_answer(event: Event) -> None:
    follower = lost_after_two()
    with pytest.raises(StoreUnavailable, match="lost"):
        follower.take_journal([event])


def test_a_job_that_is_lost_twice_is_compared_up_to_where_its_client_is() -> None:
    follower = caught_up()
    for index in range(5):
        follower.deliver(tokens("j", index))
    assert indices(follower.take_live()) == [0, 1, 2, 3, 4]
    for reached in (3, 1, 2):
        follower.lose()
        follower.begin_again()
        assert follower.take_journal([tokens("j", index) for index in range(reached)]) == []
    follower.begin_again()
    assert indices(follower.take_journal([tokens("j", index) for index in range(7)])) == [5, 6]


def test_a_tail_that_is_written_again_is_compared() -> None:
    follower = caught_up()
    for index in range(5):
        follower.deliver(tokens("j", index))
    follower.take_live()
    follower.fall_back(3)
    assert follower.take_journal([tokens("j", index) for index in range(3)]) == []
    follower.stale = False
    for index in range(3, 6):
        follower.deliver(tokens("j", index))
    assert indices(follower.take_live()) == [5]
    with pytest.raises(StoreUnavailable, match="differently"):
        follower.take_journal([Tokens("j", 4, (99,), "other")])


def test_other_pieces_of_the_same_text_are_cut_where_the_client_is() -> None:
    follower = lost_after_two()
    (piece,) = follower.take_journal([tokens("j", 0, count=4)])
    assert piece == tokens("j", 2, count=2)
    follower.begin_again()
    assert follower.take_journal([tokens("j", 0, count=3)]) == []
    assert follower.take_journal([tokens("j", 3, count=3)]) == [tokens("j", 4, count=2)]


def test_text_that_came_with_another_token_comes_once() -> None:
    follower = caught_up()
    follower.deliver(Tokens("j", 0, (0,), "ab"))
    follower.take_live()
    follower.begin_again()
    assert follower.take_journal([Tokens("j", 0, (0,), "abc")]) == []
    assert follower.take_journal([Tokens("j", 1, (1,), "d")]) == [Tokens("j", 1, (1,), "cd")]
    follower.begin_again()
    assert follower.take_journal([Tokens("j", 0, (0, 1), "ab")]) == []
    with pytest.raises(StoreUnavailable, match="differently"):
        follower.take_journal([Tokens("j", 2, (2,), "e")])


def test_live_events_beside_the_journal_that_is_compared_come_once() -> None:
    """They arrived while the journal was read, which has them too."""
    follower = verified_after(3)
    for index in range(1, 4):
        follower.deliver(tokens("j", index))
    assert follower.take_journal([tokens("j", index) for index in range(3)]) == []
    assert follower.take_live() == [tokens("j", 3)]


def test_one_of_them_in_other_pieces_has_all_compared_again() -> None:
    follower = verified_after(4)
    follower.deliver(tokens("j", 1, count=2))
    assert follower.take_journal([tokens("j", 0), tokens("j", 1)]) == []
    assert follower.take_live() == []
    assert follower.stale
    assert follower.take_journal([tokens("j", index) for index in range(5)]) == [tokens("j", 4)]


def test_an_unrequested_repeat_is_compared_too() -> None:
    follower = caught_up()
    follower.deliver(tokens("j", 0))
    follower.take_live()
    follower.deliver(Tokens("j", 0, (99,), "other"))
    with pytest.raises(StoreUnavailable, match="differently"):
        follower.take_live()


def test_a_journal_with_a_gap_is_no_answer() -> None:
    follower = caught_up()
    with pytest.raises(StoreUnavailable, match="part"):
        follower.take_journal([tokens("j", 0), tokens("j", 2)])


def test_a_failure_is_given_out_wherever_it_stands() -> None:
    follower = lost_after_two()
    failed = Failed("j", 0, "deadline_exceeded", "late")
    assert follower.take_journal([failed]) == [failed]


@given(st.data())
def test_whatever_the_store_forgets_the_client_gets_one_text_or_an_error(
    data: st.DataObject,
) -> None:
    """Lives of a job that are lost, or lose their last part, and are written again in other pieces."""
    text = list(range(12))
    follower = Follower(QUEUE, "j", 60.0)
    given_out: list[Event] = []
    lives = data.draw(st.integers(1, 5))
    with contextlib.suppress(StoreUnavailable):
        for life in range(lives):
            other = data.draw(st.booleans())
            ids = [one + 100 if other and one > 6 else one for one in text]
            last = life == lives - 1
            written = len(text) if last else data.draw(st.integers(0, len(text)))
            at = 0
            while at < written:
                count = min(data.draw(st.integers(1, 3)), written - at)
                piece = Tokens("j", at, tuple(ids[at : at + count]), "x" * count)
                at += count
                if data.draw(st.booleans()):
                    follower.stale = False
                    follower.deliver(piece)
                    given_out += follower.take_live()
                if follower.stale and follower.next_index == piece.index:
                    given_out += follower.take_journal([piece])
                if data.draw(st.booleans()):
                    follower.stale = False
                    follower.deliver(piece)  # it is in the journal too
                    given_out += follower.take_live()
            follower.begin_again()
    got = [one for event in given_out if isinstance(event, Tokens) for one in event.token_ids]
    assert sum(len(event.text) for event in given_out if isinstance(event, Tokens)) == len(got)
    assert [event.index for event in given_out] == sorted({event.index for event in given_out})
    plain, others = text[: len(got)], [one + 100 if one > 6 else one for one in text][: len(got)]
    assert got in (plain, others)
