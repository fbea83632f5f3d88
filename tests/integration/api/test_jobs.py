"""Clients that go away, jobs that are cancelled, streams that are picked up elsewhere."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from tests.fixtures.api import drone, speak
from tests.fixtures.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def lines_of(answer: httpx.Response, prefix: str = "data: {") -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith(prefix):
            yield json.loads(line.removeprefix("data: "))


# -- clients that go away


def test_a_client_that_leaves_its_stream_frees_the_slot(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True}
    ) as answer:
        seen = lines_of(answer)
        next(seen)
        next(seen)
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])
    wait_until(lambda: fleet.depth().running == 0)
    wait_until(lambda: server.services.replies.following == 0)


def test_a_client_that_leaves_without_a_stream_frees_the_slot(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "n": 2}, timeout=0.7)
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"] * 2)
    wait_until(lambda: fleet.depth().running == 0)


def test_a_client_that_leaves_the_queue_takes_its_job_with_it(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker()
    worker.accepting = False
    for stream in (True, False):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.url}/v1/chat/completions", json={**CHAT, "stream": stream}, timeout=0.5
            )
        wait_until(lambda: fleet.depth().waiting_jobs == 0)
    assert worker.jobs == []


def test_a_client_that_does_not_read_loses_nothing(fleet: Fleet) -> None:
    count = 1500

    def long(job: Job) -> Script:
        for index in range(count):
            yield Tokens(job.id, index, (index,), f"{index}-" + "x" * 400 + " ")
        yield Finished(job.id, count, FinishReason.STOP, Usage(1, count))

    server = fleet.api()
    worker = fleet.worker(long)
    worker.step_s = 0.0
    with httpx.stream(
        "POST",
        f"{server.url}/v1/completions",
        json={"model": "tiny", "prompt": "a", "stream": True},
    ) as answer:
        wait_until(lambda: worker.jobs and not worker.running, 60.0)
        words = "".join(chunk["choices"][0]["text"] for chunk in lines_of(answer)).split()
    assert [int(word.split("-")[0]) for word in words] == list(range(count))


# -- cancelling by hand


def test_cancelling_a_running_job(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True}
    ) as answer:
        seen = lines_of(answer)
        first = next(seen)
        shown = httpx.get(f"{server.url}/v1/jobs/{first['id']}").json()
        assert shown["status"] == "running"
        assert shown["id"] == worker.jobs[0].id
        gone = httpx.delete(f"{server.url}/v1/jobs/{first['id']}").json()
        assert gone["status"] == "requested"
        *_, last = seen
    assert last["error"]["code"] == "cancelled"
    ended = httpx.delete(f"{server.url}/v1/jobs/{first['id']}").json()
    assert ended["status"] == "cancelled"


def test_cancelling_a_job_whose_client_waits_for_the_whole(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{server.url}/v1/chat/completions", json=CHAT))
    )
    asking.start()
    wait_until(lambda: worker.jobs)
    httpx.delete(f"{server.url}/v1/jobs/{worker.jobs[0].id}")
    asking.join(10.0)
    assert answers[0].status_code == 499
    assert answers[0].json()["error"]["code"] == "cancelled"
    assert answers[0].headers["x-should-retry"] == "false"


def test_unknown_jobs(fleet: Fleet) -> None:
    server = fleet.api()
    for method, path in (("GET", "x"), ("GET", "x/events"), ("DELETE", "chatcmpl-x")):
        answer = httpx.request(method, f"{server.url}/v1/jobs/{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "job_not_found"
    assert httpx.get(f"{server.url}/v1/jobs/x/events?after=y").status_code == 400


# -- going on elsewhere


def test_events_again_from_another_api(fleet: Fleet) -> None:
    one, other = fleet.api(), fleet.api()
    worker = fleet.worker()
    httpx.post(f"{one.url}/v1/chat/completions", json=CHAT)
    url = f"{other.url}/v1/jobs/chatcmpl-{worker.jobs[0].id}/events"
    whole = httpx.get(url)
    assert whole.headers["content-type"].startswith("text/event-stream")
    ids = [line for line in whole.text.split("\n") if line[:3] == "id:"]
    assert [one.partition("-")[0] for one in ids] == [f"id: {index}" for index in range(5)]
    assert whole.text.count("event: tokens\n") == 4
    assert whole.text.count("event: finished\n") == 1
    rest = httpx.get(url, headers={"last-event-id": "2"})
    assert rest.text == httpx.get(f"{url}?after=2").text
    assert rest.text == httpx.get(url, headers={"last-event-id": ids[2][4:]}).text
    assert rest.text.partition("id:")[2] == whole.text.partition(ids[2])[2].partition("id:")[2]
    assert "data:" not in httpx.get(f"{url}?after=4").text


def test_a_stream_goes_on_live_elsewhere_and_watching_owns_nothing(fleet: Fleet) -> None:
    go_on = threading.Event()

    def halting(job: Job) -> Script:
        yield Tokens(job.id, 0, (0,), "first ")
        while not go_on.is_set():
            yield None
        for index in range(1, 4):
            yield Tokens(job.id, index, (index,), f"{index} ")
        yield Finished(job.id, 4, FinishReason.STOP, Usage(1, 4))

    one, other = fleet.api(), fleet.api()
    worker = fleet.worker(halting)
    with httpx.stream(
        "POST", f"{one.url}/v1/chat/completions", json={**CHAT, "stream": True}
    ) as answer:
        seen = lines_of(answer)
        next(seen)
        url = f"{other.url}/v1/jobs/{worker.jobs[0].id}/events"
        with httpx.stream("GET", url) as watched:
            next(lines_of(watched))
        with httpx.stream("GET", url, headers={"last-event-id": "0"}) as watched:
            go_on.set()
            kinds = [event["type"] for event in lines_of(watched)]
        assert kinds == ["tokens"] * 3 + ["finished"]
        texts = [c["choices"][0]["delta"].get("content", "") for c in seen]
    assert "".join(texts) == "first 1 2 3 "
    assert worker.dropped == {}


@pytest.fixture
def guarded(fleet: Fleet) -> ApiServer:
    return fleet.api(api_keys=("sk-ann", "sk-bob"))


def test_a_job_is_its_tenants_alone(fleet: Fleet, guarded: ApiServer) -> None:
    worker = fleet.worker(speak)
    ann, bob = ({"authorization": f"Bearer sk-{name}"} for name in ("ann", "bob"))
    made = httpx.post(f"{guarded.url}/v1/chat/completions", json=CHAT, headers=ann)
    assert made.status_code == 200
    job = worker.jobs[0]
    assert job.tenant.startswith("key-")
    assert "ann" not in job.tenant
    url = f"{guarded.url}/v1/jobs/{job.id}"
    for method, path in (("GET", url), ("GET", f"{url}/events"), ("DELETE", url)):
        assert httpx.request(method, path, headers=bob).status_code == 404
        assert httpx.request(method, path).status_code == 401
        assert httpx.request(method, path, headers=ann).status_code == 200


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer sk-eve", "Basic sk-ann", "sk-ann", "Bearer sk-annn", "Bearer é"],
)
def test_keys(guarded: ApiServer, header: str | None) -> None:
    headers = [] if header is None else [(b"authorization", header.encode())]
    for method, path in (("GET", "models"), ("POST", "chat/completions"), ("POST", "completions")):
        answer = httpx.request(method, f"{guarded.url}/v1/{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_key(guarded: ApiServer) -> None:
    for path, status in (("health", 200), ("ready", 503), ("version", 200), ("metrics", 200)):
        assert httpx.get(f"{guarded.url}/{path}").status_code == status
