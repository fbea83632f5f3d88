"""Ids of events: which of them a client has, and whether they are of the same answer."""

from __future__ import annotations

import pytest

from api.http.resumption import SeenEvent, seen_event
from api.jobs.event_ids import EventIds
from penstock.contract.events import Event, Finished, FinishReason, Tokens, Usage
from penstock.errors import InvalidParameter, StoreUnavailable

EVENTS: tuple[Event, ...] = (
    Tokens("j", 0, (7, 8), "a"),
    Tokens("j", 2, (9,), ""),
    Tokens("j", 3, (1,), "b"),
    Finished("j", 4, FinishReason.STOP, Usage(1, 4)),
)
OTHER: tuple[Event, ...] = (Tokens("j", 0, (7, 6), "a"), *EVENTS[1:])


def ids_of(events: tuple[Event, ...] = EVENTS) -> list[str]:
    """Return the id of each event."""
    ids, names = EventIds(SeenEvent()), []
    for event in events:
        assert ids.is_new(event)
        names.append(ids.line().decode().removeprefix("id: ").strip())
    return names


def rest(seen: str, events: tuple[Event, ...] = EVENTS) -> list[int]:
    """Return the indices of what a client lacks that has seen an event."""
    ids = EventIds(seen_event(seen, "id"))
    return [event.index for event in events if ids.is_new(event)]


@pytest.mark.parametrize("is_whole", [True, False], ids=["an id", "an index, as before"])
@pytest.mark.parametrize("place", range(4))
def test_a_client_gets_what_follows_its_event(place: int, is_whole: bool) -> None:
    name = ids_of()[place]
    seen = name if is_whole else name.partition("-")[0]
    assert rest(seen) == [event.index for event in EVENTS[place + 1 :]]


def test_an_id_goes_on_with_the_digest_that_it_had() -> None:
    ids = EventIds(seen_event(ids_of()[1], "id"))
    for event in EVENTS:
        ids.is_new(event)
    assert ids.line() == f"id: {ids_of()[-1]}\n".encode()


def test_other_pieces_of_the_same_tokens_have_the_same_digest() -> None:
    pieces = (Tokens("j", 0, (7,), ""), Tokens("j", 1, (8, 9), "a"), *EVENTS[2:])
    assert rest(ids_of()[1], pieces) == [3, 4]
    assert ids_of(pieces)[2:] == ids_of()[2:]


@pytest.mark.parametrize("place", range(4))
def test_a_part_of_another_answer_is_an_error(place: int) -> None:
    with pytest.raises(StoreUnavailable, match="differently"):
        rest(ids_of()[place], OTHER)
    assert rest(ids_of()[place].partition("-")[0], OTHER) is not None, "an index is not compared"


def test_a_piece_that_ends_past_the_clients_place_cannot_be_split() -> None:
    with pytest.raises(StoreUnavailable, match="differently"):
        rest(ids_of()[1], (Tokens("j", 0, (7, 8, 9, 1), "ab"), EVENTS[-1]))


@pytest.mark.parametrize("seen", ["9", "9-00000000"])
def test_more_than_there_is_is_an_error(seen: str) -> None:
    with pytest.raises(StoreUnavailable, match="more"):
        rest(seen)


@pytest.mark.parametrize("text", ["x", "1-", "-", "1-xyz", "1-0123456789", "1" * 20, "\u0661"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        seen_event(text, "id")


def test_no_id() -> None:
    assert seen_event(None, "id") == seen_event("", "id") == SeenEvent()
    assert seen_event("-1", "id").index == seen_event("-7", "id").index == -1
