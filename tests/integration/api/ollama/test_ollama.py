"""/api/* by Ollama's Python client, over a real Redis and a scripted worker."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import httpx
import ollama
import pytest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.contract.job import ChatPrompt, FillPrompt, TextPrompt
from penstock.contract.structure import JsonStructure
from tests.fixtures.api import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

TEXT = "".join(WORDS)
HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
HERMES = {"tool_parser": "hermes", "capabilities": ("generate", "structure")}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def client(server: ApiServer) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()


def says(*pieces: str) -> Any:
    """Return a script that says these pieces, whatever is asked."""

    def script(job: Job) -> Script:
        for index, piece in enumerate(pieces):
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=None if index else 3)
        yield Finished(job.id, len(pieces), FinishReason.STOP, Usage(3, len(pieces)))

    return script


def test_what_is_served_is_listed(fleet: Fleet, server: ApiServer, client: ollama.Client) -> None:
    fleet.worker(reasoning=("<think>", "</think>"), **HERMES)
    assert httpx.get(f"{server.url}/api/version").json()["version"].count(".") == 2
    names = {model.model for model in client.list().models}
    assert names == {"tiny", "org/tiny"}
    (loaded, _) = sorted(client.ps().models, key=lambda model: len(model.model or ""))
    assert (loaded.model, loaded.context_length) == ("tiny", 512)
    for name in ("tiny", "tiny:latest", "org/tiny"):
        shown: Any = client.show(name)
        assert shown.modelinfo["llama.context_length"] == 512
        assert shown.capabilities == ["completion", "tools", "thinking"]
        assert shown.details.quantization_level == "fp32"
    with pytest.raises(ollama.ResponseError, match="does not exist") as caught:
        client.show("another")
    assert caught.value.status_code == 404


def test_a_chat_whole_and_streamed(fleet: Fleet, client: ollama.Client) -> None:
    worker = fleet.worker()
    whole = client.chat(
        model="tiny:latest",
        messages=HELLO,
        keep_alive="5m",
        options={"temperature": 0.0, "num_predict": 3, "seed": 5, "num_ctx": 64, "stop": ["x"]},
    )
    assert whole.message.content == "".join(WORDS[:3])
    assert (whole.done, whole.done_reason) == (True, "length")
    assert (whole.prompt_eval_count, whole.eval_count) == (3, 3)
    assert whole.total_duration is not None
    assert whole.total_duration >= (whole.eval_duration or 0) >= 0
    sampling = worker.jobs[0].work.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (3, 0.0, 5)
    assert sampling.stop == ("x",)
    lines = list(client.chat(model="tiny", messages=HELLO, stream=True))
    assert "".join(line.message.content or "" for line in lines) == TEXT
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1].done_reason == "stop"


def test_lines_stream_unless_they_are_not_wanted(fleet: Fleet, server: ApiServer) -> None:
    fleet.worker()
    answer = httpx.post(f"{server.url}/api/chat", json={"model": "tiny", "messages": HELLO})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0]["message"] == {"role": "assistant", "content": WORDS[0]}
    assert lines[-1]["eval_count"] == len(WORDS)


def test_no_messages_and_no_prompt_load_the_model(fleet: Fleet, client: ollama.Client) -> None:
    worker = fleet.worker()
    assert client.chat(model="tiny", messages=[]).done_reason == "load"
    assert client.generate(model="tiny", prompt="").done_reason == "load"
    assert worker.jobs == []


def test_tools_and_their_results(fleet: Fleet, client: ollama.Client) -> None:
    worker = fleet.worker(says("I look. ", CALL[:20], CALL[20:40], CALL[40:], CALL), **HERMES)
    asked = {"model": "tiny", "messages": HELLO, "tools": [WEATHER]}
    whole = client.chat(**asked).message
    assert whole.content == "I look."
    assert [(one.function.name, one.function.arguments) for one in whole.tool_calls or []] == [
        ("weather", {"city": "Rome"})
    ] * 2
    lines = list(client.chat(**asked, stream=True))
    calls = [call for line in lines for call in line.message.tool_calls or []]
    assert [call.function.arguments for call in calls] == [{"city": "Rome"}] * 2
    history = [*HELLO, whole.model_dump(exclude_none=True)]
    history += [{"role": "tool", "tool_name": "weather", "content": text} for text in ("1", "2")]
    client.chat(model="tiny", messages=history, tools=[WEATHER])
    prompt = worker.jobs[-1].work.prompt
    assert isinstance(prompt, ChatPrompt)
    ids = [call["id"] for call in prompt.messages[1]["tool_calls"]]
    assert [one["tool_call_id"] for one in prompt.messages[2:]] == ids
    assert len(set(ids)) == 2


def test_thinking_is_apart(fleet: Fleet, client: ollama.Client) -> None:
    worker = fleet.worker(says("<think>hm", "m</think>", "yes"), reasoning=("<think>", "</think>"))
    message = client.chat(model="tiny", messages=HELLO, think=True).message
    assert (message.thinking, message.content) == ("hmm", "yes")
    answer = client.generate(model="tiny", prompt="x", think=False)
    assert (answer.thinking, answer.response) == ("hmm", "yes")
    prompts = [job.work.prompt for job in worker.jobs]
    wishes = [
        one.template_kwargs["enable_thinking"] for one in prompts if isinstance(one, ChatPrompt)
    ]
    assert wishes == [True, False]


def test_forms(fleet: Fleet, client: ollama.Client) -> None:
    worker = fleet.worker(**HERMES)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    client.chat(model="tiny", messages=HELLO, format=schema)
    client.generate(model="tiny", prompt="x", format="json")
    held = [job.work.sampling.structure for job in worker.jobs]
    assert isinstance(held[0], JsonStructure)
    assert isinstance(held[0].schema, dict)
    assert held[0].schema["required"] == ["a"]
    assert isinstance(held[1], JsonStructure)


def test_generate_through_the_template_raw_and_before_a_suffix(
    fleet: Fleet, client: ollama.Client
) -> None:
    worker = fleet.worker(capabilities=("generate", "fim"))
    assert client.generate(model="tiny", prompt="a", system="b").response == TEXT
    assert client.generate(model="tiny", prompt="a", raw=True).response == TEXT
    streamed = client.generate(model="tiny", prompt="a", suffix="c", stream=True)
    assert "".join(line.response or "" for line in streamed) == TEXT
    chat, raw, fill = [job.work.prompt for job in worker.jobs]
    assert isinstance(chat, ChatPrompt)
    assert [one["role"] for one in chat.messages] == ["system", "user"]
    assert isinstance(raw, TextPrompt)
    assert (raw.text, worker.jobs[1].work.fit_context) == ("a", True)
    assert isinstance(fill, FillPrompt)
    with pytest.raises(ollama.ResponseError, match="template"):
        client.generate(model="tiny", prompt="a", template="{{ .Prompt }}")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "text only"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "role"),
        ({"messages": HELLO, "options": {"repeat_penalty": -1}}, "repeat_penalty"),
        ({"messages": HELLO, "tools": [WEATHER]}, "tools"),
    ],
)
def test_faults_are_400_in_ollamas_shape(
    fleet: Fleet, server: ApiServer, fields: dict[str, Any], text: str
) -> None:
    fleet.worker()
    answer = httpx.post(f"{server.url}/api/chat", json={"model": "tiny", **fields})
    assert answer.status_code == 400
    assert text in answer.json()["error"]
    assert set(answer.json()) == {"error", "code"}


@pytest.mark.parametrize(
    ("path", "fields", "reported"),
    [
        ("chat", {"keep_alive": "5m", "options": {"num_ctx": 4096, "num_gpu": 1, "top_k": 5}}, []),
        (
            "chat",
            {"logprobs": True, "new": 1, "options": {"typical_p": 0.5, "mirostat": 0, "newer": 2}},
            ["logprobs", "new", "options.typical_p", "options.newer"],
        ),
        ("chat", {"options": {"temperature": 3.0}}, ["options.temperature"]),
        ("generate", {"prompt": "a", "context": [1, 2]}, ["context"]),
        ("generate", {"prompt": "a", "raw": True, "think": True}, ["think"]),
    ],
)  # fmt: skip
def test_what_is_left_out_is_reported(
    fleet: Fleet, server: ApiServer, path: str, fields: dict[str, Any], reported: list[str]
) -> None:
    fleet.worker(generation_defaults={})
    body = {"model": "tiny", "stream": False, **fields}
    answer = httpx.post(f"{server.url}/api/{path}", json={"messages": HELLO} | body)
    assert answer.status_code == 200
    warnings = json.loads(answer.headers.get("x-penstock-warnings", "[]"))
    unknown = ["messages"] if path == "generate" else []
    assert [text.partition(":")[0] for text in warnings] == [*unknown, *reported]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/pull", 400), ("DELETE", "/api/delete", 400), ("POST", "/api/nothing", 404),
        ("GET", "/api/chat", 405),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    fleet: Fleet, server: ApiServer, method: str, path: str, status: int
) -> None:
    fleet.worker()
    answer = httpx.request(method, server.url + path)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


def test_a_failure_in_mid_stream_is_the_last_line(fleet: Fleet, client: ollama.Client) -> None:
    def script(job: Job) -> Script:
        yield Tokens(job.id, 0, (0,), "one", prompt_tokens=3)
        yield Failed(job.id, 1, "engine_failed", "broken")

    fleet.worker(script)
    lines: list[str] = []
    with pytest.raises(ollama.ResponseError, match="broken"):
        lines.extend(
            line.message.content or ""
            for line in client.chat(model="tiny", messages=HELLO, stream=True)
        )
    assert lines in ([], ["one"])


def test_embeddings(fleet: Fleet, client: ollama.Client) -> None:
    def script(job: Job) -> Script:
        vector = base64.b64encode(struct.pack("<2f", 1.0, 0.0)).decode()
        yield Finished(job.id, 0, FinishReason.STOP, Usage(2, 0), embedding=vector)

    fleet.worker(script, capabilities=("embed",))
    many = client.embed(model="tiny", input=["a", "b"])
    assert [list(vector) for vector in many.embeddings] == [[1.0, 0.0]] * 2
    assert many.prompt_eval_count == 4
    assert list(client.embeddings(model="tiny", prompt="a").embedding) == [1.0, 0.0]
    with pytest.raises(ollama.ResponseError, match="must not be empty"):
        client.embed(model="tiny", input=[""])
