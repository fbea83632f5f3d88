"""Requests that are repeated: the same key is the same job, on any API process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from tests.fixtures.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import Fleet, Script

pytestmark = pytest.mark.busy(
    reason="leases and patience of a second or less, beside three other tests"
)

ASK: Any = {"model": "tiny", "prompt": "hello", "stream": True}
KEY = {"Idempotency-Key": "mine"}
COUNT = 40
WHOLE = "".join(f"{index} " for index in range(COUNT)) + "end"


def count_up(job: Job) -> Script:
    """Say the numbers, and hold a last word back until the end."""
    for index in range(COUNT):
        yield Tokens(job.id, index, (index,), f"{index} ")
        yield None
    yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT), text="end")


def frames(answer: httpx.Response) -> Iterator[tuple[int, str]]:
    """Yield (index, text) of a stream's frames; -1 for those without an id."""
    for event_id, text in named_frames(answer):
        yield int(event_id.partition("-")[0] or -1), text


def named_frames(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of a stream's frames."""
    event_id = ""
    for line in answer.iter_lines():
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: {"):
            yield event_id, json.loads(line[6:])["choices"][0]["text"]


@pytest.mark.parametrize("is_whole", [True, False], ids=["an id", "an index, as before"])
def test_a_stream_goes_on_at_another_process_where_it_broke(fleet: Fleet, is_whole: bool) -> None:
    first, second = fleet.api(), fleet.api()
    worker = fleet.worker(count_up)
    text, last = "", ""
    with httpx.stream("POST", f"{first.url}/v1/completions", json=ASK, headers=KEY) as answer:
        for event_id, piece in named_frames(answer):
            text, last = text + piece, event_id
            if last.startswith("5-"):
                break
    headers = {**KEY, "Last-Event-ID": last if is_whole else last.partition("-")[0]}
    with httpx.stream("POST", f"{second.url}/v1/completions", json=ASK, headers=headers) as answer:
        text += "".join(piece for _, piece in frames(answer))
    assert text == WHOLE
    assert len(worker.jobs) == 1, "taken up, not asked again"
    assert worker.dropped == {}


def test_a_finished_answer_is_given_again(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(count_up)
    answers = [
        httpx.post(
            f"{server.url}/v1/completions", json={**ASK, "stream": False, "n": 2}, headers=KEY
        ).json()
        for _ in range(2)
    ]
    assert answers[0]["choices"] == answers[1]["choices"], answers
    assert answers[0]["id"] == answers[1]["id"]
    assert len(worker.jobs) == 2, "one a choice"
    headers = {**KEY, "Last-Event-ID": str(COUNT)}
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=ASK, headers={**KEY, "Idempotency-Key": "b"}
    ) as answer:
        assert "".join(piece for _, piece in frames(answer)) == WHOLE
    headers = {"Idempotency-Key": "b", "Last-Event-ID": str(COUNT)}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, headers=headers) as answer:
        assert list(frames(answer)) == [], "all of it was seen"


def test_the_same_key_with_another_body_is_refused(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker(count_up)
    body = {**ASK, "stream": False}
    assert httpx.post(f"{server.url}/v1/completions", json=body, headers=KEY).status_code == 200
    other = httpx.post(
        f"{server.url}/v1/completions", json={**body, "prompt": "other"}, headers=KEY
    )
    assert other.status_code == 400, other.text
    assert other.json()["error"]["param"] == "idempotency-key"


@pytest.mark.parametrize(
    "headers",
    [
        {"Last-Event-ID": "3"},
        {"Last-Event-ID": "x", **KEY},
        {"Last-Event-ID": "3-x", **KEY},
        {"Last-Event-ID": "3-0123456789", **KEY},
        {"Idempotency-Key": "k" * 300},
    ],
)
def test_headers_that_make_no_sense_are_refused(fleet: Fleet, headers: dict[str, str]) -> None:
    server = fleet.api()
    fleet.worker(count_up)
    answer = httpx.post(f"{server.url}/v1/completions", json=ASK, headers=headers)
    assert answer.status_code == 400


def test_jobs_without_a_returning_client_are_cancelled(fleet: Fleet) -> None:
    server = fleet.api(resume_grace_s=0.2)
    worker = fleet.worker(count_up)
    worker.step_s = 0.1
    with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, headers=KEY) as answer:
        next(frames(answer))
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])
