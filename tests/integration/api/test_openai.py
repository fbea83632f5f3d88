"""The OpenAI endpoints over a real Redis and a scripted worker, asked by OpenAI's own SDK."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from penstock.contract.events import (
    Failed,
    Finished,
    FinishReason,
    PositionLogprobs,
    TokenLogprob,
    Tokens,
    Usage,
)
from penstock.contract.job import ChatPrompt, FillPrompt, TextPrompt, TokenPrompt
from tests.fixtures.api import drone, speak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20.0) as http:
        yield http


def frames(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


# -- models


def test_models(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    assert [model.id for model in client.models.list()] == ["org/tiny", "tiny"]
    assert client.models.retrieve("tiny").created == 1_700_000_000
    assert client.models.retrieve("org/tiny").owned_by == "penstock"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/none")
    assert caught.value.code == "model_not_found"


# -- chat


def test_chat(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker()
    answer = client.chat.completions.create(model="tiny", messages=HELLO)
    assert answer.choices[0].message.content == "once upon a time"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
    assert answer.usage.total_tokens == 7
    assert answer.model == "tiny"
    assert answer.object == "chat.completion"
    assert answer.system_fingerprint
    assert answer.id == f"chatcmpl-{worker.jobs[0].id}"


def test_chat_streamed(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "once upon a time"
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_of_a_stream(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True},
            max_completion_tokens=2,
        )
    )  # fmt: skip
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5
    assert chunks[-2].choices[0].finish_reason == "length"


def test_frames_as_they_are_on_the_wire(fleet: Fleet, http: httpx.Client) -> None:
    worker = fleet.worker()
    body = {"model": "tiny", "messages": HELLO, "stream": True}
    headers = {"x-request-id": "mine-1", "idempotency-key": "k"}
    answer = http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-penstock-jobs"] == worker.jobs[0].id
    assert "content-length" not in answer.headers
    assert worker.jobs[0].request_id == "mine-1"
    events = [line for line in answer.text.split("\n") if line]
    assert [line.split("-")[0] for line in events if line.startswith("id:")] == [
        f"id: {i}" for i in range(5)
    ]
    assert events[-1] == "data: [DONE]"
    plain = http.post("/v1/chat/completions", json=body).text
    assert all(line.startswith("data: ") for line in plain.split("\n") if line)
    assert plain.endswith("}\n\ndata: [DONE]\n\n")


def test_the_job_as_the_worker_gets_it(fleet: Fleet, http: httpx.Client) -> None:
    worker = fleet.worker(generation_defaults={"temperature": 0.3})
    body = {
        "model": "org/tiny",
        "messages": [{"role": "developer", "content": "Be brief."}, *HELLO],
        "max_tokens": 7, "priority": 2, "seed": 11, "stop": ["x"], "user": "me",
        "an_unknown_field": True,
    }  # fmt: skip
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.json()["model"] == "org/tiny", "as it was asked for"
    job = worker.jobs[0]
    assert (job.queue, job.model, job.priority, job.tenant) == ("tiny-cpu", "tiny", 2, "anonymous")
    assert job.work.sampling.temperature == 0.3
    assert (job.work.sampling.seed, job.work.sampling.stop) == (11, ("x",))
    assert job.deadline_ms - job.created_ms == 600_000
    assert 7 < job.cost_tokens < 20
    assert isinstance(job.work.prompt, ChatPrompt)
    assert job.work.prompt.messages[0]["role"] == "system"


def test_choices(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(lambda job: speak(job, (f"{job.work.sampling.seed}", ".")))
    asked: Any = {"model": "tiny", "messages": HELLO, "n": 3, "seed": 5}
    answer = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert texts[0] == "5."
    assert len(set(texts)) == 3
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert len(worker.jobs) == 6


def test_chat_logprobs(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker(with_logprobs)
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["on", "ce"]
    assert logprobs.content[0].bytes == [111, 110]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["on", "off"]


def with_logprobs(job: Job) -> Script:
    wanted = job.work.sampling.logprobs
    assert wanted is not None
    for index, text in enumerate(("on", "ce")):
        best = (TokenLogprob(index, text, -0.5), TokenLogprob(9, "off", -1.0))
        position = PositionLogprobs(best[0], best[:wanted])
        yield Tokens(job.id, index, (index,), text, logprobs=(position,))
    yield Finished(job.id, 2, FinishReason.STOP, Usage(3, 2))


# -- completions


def test_completion_defaults(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker()
    answer = client.completions.create(model="tiny", prompt="tell")
    assert answer.choices[0].text == "once upon a time"
    assert answer.object == "text_completion"
    assert worker.jobs[0].work.sampling.max_tokens == 16
    assert worker.jobs[0].work.prompt == TextPrompt("tell")


def test_several_prompts(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(lambda job: speak(job, (repr(job.work.prompt),)))
    answer = client.completions.create(model="tiny", prompt=[[1, 2], [3]], n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text == repr(TokenPrompt((1, 2)))
    assert answer.choices[2].text == answer.choices[3].text == repr(TokenPrompt((3,)))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 4
    assert all(job.work.echo for job in worker.jobs)


def test_completion_streamed_with_logprobs(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker(with_logprobs)
    chunks = list(client.completions.create(model="tiny", prompt="a", stream=True, logprobs=1))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once"
    assert [c.choices[0].logprobs.text_offset for c in chunks if c.choices[0].logprobs] == [
        [0],
        [2],
    ]
    whole = client.completions.create(model="tiny", prompt="a", logprobs=1).choices[0].logprobs
    assert whole is not None
    assert whole.text_offset == [0, 2]
    assert whole.top_logprobs == [{"on": -0.5}, {"ce": -0.5}]


# -- errors


@pytest.mark.parametrize(
    ("asked", "error", "param", "code"),
    [
        ({"model": "none"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 9}, openai.BadRequestError, "temperature", "invalid_parameter"),
        ({"messages": [{"role": "x", "content": "y"}]}, openai.BadRequestError,
         "messages[0].role", "invalid_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError,
         "tools", "unsupported_feature"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError,
         "response_format", "unsupported_feature"),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError,
         "stream_options", "invalid_parameter"),
        ({"logit_bias": {"9999": 1}}, openai.BadRequestError, "logit_bias", "invalid_parameter"),
    ],
)  # fmt: skip
def test_bad_requests(  # noqa: PLR0917  pytest fills them in
    fleet: Fleet, client: openai.OpenAI, asked: Any, error: Any, param: str | None, code: str
) -> None:
    fleet.worker()
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO, **asked})
    assert caught.value.code == code
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"a":' + b"[" * 100_000, b'{"model": "\\ud800"}']
)  # fmt: skip
def test_bodies_that_are_no_request(http: httpx.Client, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = http.post(path, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_needs_no_content_type(fleet: Fleet, http: httpx.Client) -> None:
    fleet.worker()
    body = json.dumps({"model": "tiny", "prompt": "a"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert http.post("/v1/completions", content=body, headers=headers).status_code == 200


def test_too_large_a_body(server: ApiServer, http: httpx.Client) -> None:
    limit = server.settings.max_body_bytes
    answer = http.post("/v1/chat/completions", content=b" " * (limit + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 1_000_000

    answer = http.post("/v1/chat/completions", content=endless())
    assert answer.status_code == 413


def test_paths_and_methods(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/chat/completions/", 404),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status, path
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"].startswith("req-")


def test_an_error_at_once_has_its_status_even_for_a_stream(
    fleet: Fleet, client: openai.OpenAI
) -> None:
    def overflow(job: Job) -> Script:
        yield Failed(job.id, 0, "context_length_exceeded", "too long")

    fleet.worker(overflow)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=HELLO, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x")
    assert caught.value.param == "prompt"


def test_an_error_in_mid_stream_is_an_event(fleet: Fleet, http: httpx.Client) -> None:
    def fail(job: Job) -> Script:
        yield Tokens(job.id, 0, (1,), "once")
        yield Failed(job.id, 1, "engine_failed", "it broke")

    fleet.worker(fail)
    body = {"model": "tiny", "messages": HELLO, "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert frames(answer.text)[-1]["error"]["code"] == "engine_failed"
    assert "[DONE]" not in answer.text
    plain = http.post("/v1/chat/completions", json={**body, "stream": False})
    assert plain.status_code == 500
    with (
        openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none") as client,
        pytest.raises(openai.APIError, match="it broke"),
    ):
        list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))


def test_one_choices_failure_ends_all(fleet: Fleet, client: openai.OpenAI) -> None:
    def script(job: Job) -> Script:
        if job.work.sampling.seed == 5:  # the first choice's is the request's own
            yield Failed(job.id, 0, "engine_failed", "it broke")
        yield from drone(job)

    worker = fleet.worker(script)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="tiny", messages=HELLO, n=3, seed=5)
    wait_for(lambda: len(worker.dropped) == 2)
    assert set(worker.dropped.values()) == {"cancelled"}


def test_a_full_queue(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=1)
    worker = fleet.worker()
    worker.accepting = False
    body = {"model": "tiny", "prompt": "a", "n": 2}
    with httpx.Client(base_url=server.url) as http:
        answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    depth = fleet.depth()
    wait_for(lambda: fleet.depth().waiting_jobs == 0)  # the one that got in is taken back
    assert depth.running == 0


def test_no_worker(fleet: Fleet) -> None:
    server = fleet.api(worker_grace_s=0.0)
    worker = fleet.worker()
    worker.stop()
    server.refresh()
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.status_code == 503
    assert caught.value.code == "no_worker"
    assert "retry-after" in caught.value.response.headers


def test_an_unexpected_error(server: ApiServer, http: httpx.Client, caplog: Any) -> None:
    def broken(_name: str) -> Any:
        raise ZeroDivisionError("a secret")

    server.services.registry.pick = broken
    answer = http.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]


# -- waiting


def test_keep_alive_while_waiting(fleet: Fleet) -> None:
    def late(job: Job) -> Script:
        for _ in range(250):
            yield None
        yield from speak(job)

    server = fleet.api(keepalive_s=0.1)
    fleet.worker(late)
    body = {"model": "tiny", "messages": HELLO, "stream": True}
    with httpx.Client(base_url=server.url) as http:
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.text.startswith("\n\n")
        assert all(line.startswith("data: ") for line in answer.text.split("\n") if line)
        numbered = http.post("/v1/chat/completions", json=body, headers={"idempotency-key": "k"})
        assert numbered.text.startswith(": keep-alive\n")
        assert answer.text.endswith("data: [DONE]\n\n")
        plain = http.post("/v1/chat/completions", json={**body, "stream": False})
    assert plain.json()["choices"][0]["message"]["content"] == "once upon a time"


def test_more_requests_than_slots(fleet: Fleet, http: httpx.Client) -> None:
    fleet.worker(slots=4)
    body = {"model": "tiny", "prompt": "a"}

    def ask(number: int) -> str:
        answer = http.post("/v1/completions", json={**body, "stream": number % 2 == 0})
        assert answer.status_code == 200
        if number % 2:
            return answer.json()["choices"][0]["text"]
        return "".join(frame["choices"][0]["text"] for frame in frames(answer.text))

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(ask, range(64))) == {"once upon a time"}


def wait_for(condition: Any) -> None:
    from tests.fixtures.processes import wait_until

    wait_until(condition, 10.0)


def test_a_suffix_is_for_models_that_fill_in(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(capabilities=("generate", "structure", "fim"))
    client.completions.create(model="tiny", prompt="def f(", suffix="): pass", echo=True)
    assert worker.jobs[0].work.prompt == FillPrompt("def f(", "): pass")
    client.completions.create(model="tiny", prompt="def f(", suffix="")
    assert worker.jobs[1].work.prompt == TextPrompt("def f(")
    wrong: list[dict[str, Any]] = [{"prompt": [1]}, {"prompt": "a", "echo": True, "logprobs": 1}]
    for body in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="tiny", suffix="b", **body)
        assert caught.value.param == "suffix"


def test_a_suffix_is_refused_elsewhere(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_feature")


def test_a_chats_logprobs_are_of_its_content(fleet: Fleet, client: openai.OpenAI) -> None:
    def script(job: Job) -> Script:
        assert job.work.sampling.stop_token_ids == (9, 2)
        for index, (token, text) in enumerate(((5, "hi"), (2, ""))):
            told = (PositionLogprobs(TokenLogprob(token, text or "<end>", -0.5)),)
            yield Tokens(
                job.id, index, (token,), text, told, prompt_tokens=3 if not index else None
            )
        yield Finished(job.id, 2, FinishReason.STOP, Usage(3, 2))

    fleet.worker(script, stop_token_ids=(2,))
    asked: Any = {"model": "tiny", "messages": HELLO, "logprobs": True}
    asked["extra_body"] = {"stop_token_ids": [9]}
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    assert whole is not None
    assert [one.token for one in whole.content or ()] == ["hi"]
    streamed = [
        one.token
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for one in choice.logprobs.content or ()
    ]
    assert streamed == ["hi"]
