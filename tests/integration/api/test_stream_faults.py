"""What nobody expected, in the middle of a stream: it ends in its protocol's own words.

The fault is real: the code that makes a protocol's frames raises as it is called for the third time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest
import redis

import api.admin.jobs
from api.anthropic.blocks import MessageWriter
from api.fastchat.frames import Cumulative
from api.openai.chat.answer_readings import ReadChunkWriter
from api.openai.chat.chunks import ChunkWriter
from api.openai.responses.events import ResponseBuilder
from penstock.transport import keys
from penstock.transport.accounts import usage_log
from tests.fixtures.api import WORDS, drone, speak
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fixtures.api import ApiServer, Fleet

CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 64,
    "stream": True,
}
PLAIN: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 64, "stream": True}
FAULTS = [
    pytest.param(ZeroDivisionError("a secret"), "internal_error", id="bug"),
    pytest.param(redis.ConnectionError("Connection reset"), "store_unavailable", id="redis"),
]
SECOND = "1"
"""What `drone` says last before the fault, a blank aside."""


class Breakable:
    """Makes a function of the API raise from its third call on."""

    def __init__(self, owner: Any, name: str, error: Exception, patch: pytest.MonkeyPatch) -> None:
        genuine, self.calls = getattr(owner, name), 0

        def broken(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls > 2:
                raise error
            return genuine(*args, **kwargs)

        patch.setattr(owner, name, broken)


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def http(server: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20.0) as client:
        yield client


def sse(content: bytes) -> list[dict[str, Any]]:
    """Return the objects of a stream of SSE."""
    lines = content.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def openai_says(content: bytes, code: str) -> None:
    *before, last = sse(content)
    assert SECOND in str(before[-1]["choices"])
    assert (last["error"]["code"], set(last)) == (code, {"error"})
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert b"[DONE]" not in content


def anthropic_says(content: bytes, code: str) -> None:
    *before, last = sse(content)
    assert before[-1]["delta"]["text"].strip() == SECOND
    assert (last["type"], last["error"]["code"]) == ("error", code)
    kind = "api_error" if code == "internal_error" else "overloaded_error"
    assert last["error"]["type"] == kind
    assert last["request_id"].startswith("req-")
    assert b"event: error\n" in content


def responses_say(content: bytes, code: str) -> None:
    events = sse(content)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas[-1].strip() == SECOND
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "server_error"
    assert (last["response"]["error"]["message"] == "Internal error") == (code == "internal_error")


def fastchat_says(content: bytes, code: str) -> None:
    assert content.endswith(b"\0")
    *before, last = map(json.loads, filter(None, content.split(b"\0")))
    assert before[-1]["text"].split()[-1] == SECOND
    number = 50001 if code == "internal_error" else 50005
    assert (last["error_code"], set(last)) == (number, {"text", "error_code"})


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
STREAMS = [
    pytest.param("/v1/chat/completions", CHAT, (ChunkWriter, "event"), openai_says, id="chat"),
    pytest.param(
        "/v1/chat/completions", {**CHAT, "tools": [TOOL]}, (ReadChunkWriter, "event"),
        openai_says, id="tools",
    ),
    pytest.param("/v1/completions", PLAIN, (ChunkWriter, "event"), openai_says, id="completions"),
    pytest.param("/v1/messages", CHAT, (MessageWriter, "event"), anthropic_says, id="anthropic"),
    pytest.param(
        "/v1/responses", {"model": "tiny", "input": "hello", "stream": True},
        (ResponseBuilder, "piece"), responses_say, id="responses",
    ),
    pytest.param(
        "/worker_generate_stream", PLAIN, (Cumulative, "take"), fastchat_says, id="fastchat"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), FAULTS)
@pytest.mark.parametrize(("path", "body", "place", "says"), STREAMS)
def test_the_stream_ends_in_its_own_words(
    fleet: Fleet,
    http: httpx.Client,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    path: str,
    body: dict[str, Any],
    place: tuple[Any, str],
    says: Callable[[bytes, str], None],
    error: Exception,
    code: str,
) -> None:
    worker = fleet.worker(drone, tool_parser="hermes", capabilities=("generate", "structure"))
    with monkeypatch.context() as patch:
        fault = Breakable(*place, error, patch)
        answer = http.post(path, json=body)  # httpx raises where the connection is cut
    assert (answer.status_code, fault.calls) == (200, 3)
    says(answer.content, code)
    assert b"secret" not in answer.content
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])
    wait_until(lambda: fleet.depth().running == 0)
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    if code == "internal_error":
        [record] = told
        assert (
            record.getMessage() == f"request {answer.headers['x-request-id']} failed in mid-stream"
        )
        assert record.exc_info is not None
        assert record.exc_info[1] is error
    else:
        assert told == []
    counted = f'penstock_request_errors_total{{code="{code}"}} 1.0'
    wait_until(lambda: counted in http.get("/metrics").text)
    wait_until(lambda: redis_client.xlen(keys.USAGE) == 1)
    [row] = usage_log.read(redis_client, 0, 5.0)
    assert (row.outcome, row.answers) == (code, 0)


def test_openais_sdk_raises_an_error_of_the_api(
    fleet: Fleet, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.worker(drone)
    Breakable(ChunkWriter, "event", ZeroDivisionError("a secret"), monkeypatch)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(**CHAT)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert (caught.value.code, caught.value.message) == ("internal_error", "Internal error")


def test_anthropics_sdk_raises_an_error_of_the_api(
    fleet: Fleet, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.worker(drone)
    Breakable(MessageWriter, "event", ZeroDivisionError("a secret"), monkeypatch)
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        stream = client.messages.create(**CHAT)
        with pytest.raises(anthropic.APIStatusError) as caught:
            list(stream)
    assert "Internal error" in caught.value.message


def test_one_of_several_answers(
    fleet: Fleet, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker(drone)
    Breakable(ChunkWriter, "event", ZeroDivisionError("a secret"), monkeypatch)
    answer = http.post("/v1/completions", json={**PLAIN, "n": 3})
    assert sse(answer.content)[-1]["error"]["code"] == "internal_error"
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"] * 3)


def test_who_watches_a_job_breaks_nothing(
    fleet: Fleet, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker(drone)
    with http.stream("POST", "/v1/completions", json=PLAIN) as owner:
        job_id = owner.headers["x-penstock-jobs"]
        Breakable(api.admin.jobs, "_frame", ZeroDivisionError("a secret"), monkeypatch)
        watched = http.get(f"/v1/jobs/{job_id}/events")
        assert sse(watched.content)[-1]["error"]["code"] == "internal_error"
        assert worker.dropped == {}
        assert job_id in worker.running
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])


@pytest.mark.parametrize(("error", "code"), FAULTS)
def test_a_response_in_the_background_goes_on(
    fleet: Fleet, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    fleet.worker(speak)
    asked = {"model": "tiny", "input": "hello", "stream": True, "background": True}
    with monkeypatch.context() as patch:
        Breakable(ResponseBuilder, "piece", error, patch)
        *events, last = sse(http.post("/v1/responses", json=asked).content)
    assert (last["type"], last["code"]) == ("error", code)
    assert last["sequence_number"] == events[-1]["sequence_number"]
    path = f"/v1/responses/{events[0]['response']['id']}"
    events += sse(http.get(f"{path}?stream=true&starting_after={last['sequence_number']}").content)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kind = "response.output_text.delta"
    assert "".join(event["delta"] for event in events if event["type"] == kind) == "".join(WORDS)
    assert events[-1]["type"] == "response.completed"
    wait_until(lambda: http.get(path).json()["status"] == "completed")


def test_a_response_whose_stream_broke_ends_as_its_job_does(
    fleet: Fleet, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.worker(drone)
    asked = {"model": "tiny", "input": "hello", "stream": True}
    with monkeypatch.context() as patch:
        Breakable(ResponseBuilder, "piece", ZeroDivisionError("a secret"), patch)
        events = sse(http.post("/v1/responses", json=asked).content)
    path = f"/v1/responses/{events[-1]['response']['id']}"
    wait_until(lambda: http.get(path).json()["status"] == "cancelled")


def test_a_stream_that_cannot_be_ended_is_cut(
    fleet: Fleet, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker(drone)
    Breakable(ResponseBuilder, "piece", ZeroDivisionError("a secret"), monkeypatch)

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("another secret")

    monkeypatch.setattr(ResponseBuilder, "end", broken)
    with pytest.raises(httpx.RemoteProtocolError):
        http.post("/v1/responses", json={"model": "tiny", "input": "hello", "stream": True})
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])
    assert http.get("/health").status_code == 200
