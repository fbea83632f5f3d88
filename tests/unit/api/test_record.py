"""The record of a request: what is noted of a client's own words is bounded."""

from __future__ import annotations

from api.http.record import LONGEST_SESSION, RequestRecord


def test_a_conversations_name_at_its_bound() -> None:
    record = RequestRecord(request_id="r")
    record.note_session("s" * LONGEST_SESSION)
    assert record.session == "s" * LONGEST_SESSION
    record.note_session("t" * (LONGEST_SESSION + 1))
    assert record.session == "t" * LONGEST_SESSION
    record.note_session({"not": "a name"})
    assert record.session == "t" * LONGEST_SESSION
