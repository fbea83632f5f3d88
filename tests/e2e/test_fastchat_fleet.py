"""FastChat's wire before a real worker with a real, tiny model."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.fastchat.default_template import OPENING
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fixtures.processes import Processes, Running

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MODEL = "tiny-llama"
GREEDY: Any = {"temperature": 0.0, "echo": False, "max_new_tokens": 12}
WATER = "Water flows through the"
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where does the water flow?"},
    {"role": "assistant", "content": "### Through the penstock."},
    {"role": "user", "content": "And then?"},
]


def enveloped(conv: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """Render messages as FastChat's OpenAI server does with the template that we return."""
    prompt = conv["system_template"].format(system_message=messages[0]["content"])
    for message in messages[1:]:
        prompt += f"{conv['roles'][message['role'] == 'assistant']}: {message['content']}"
    return f"{prompt}{conv['roles'][1]}:"


def objects(answer: httpx.Response, pieces: list[bytes] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the stream's objects as they come; note all that came."""
    buffer = b""
    for piece in answer.iter_bytes():
        if pieces is not None:
            pieces.append(piece)
        buffer += piece
        *whole, buffer = buffer.split(b"\0")
        yield from (json.loads(one) for one in whole if one)
    assert not buffer


def test_answers(processes: Processes, redis_url: str, models_dir: Path) -> None:
    worker = processes.start_worker(f"{MODEL}-cpu", redis_url, models_dir)
    api = processes.start_api(redis_url, env={"PENSTOCK_KEEPALIVE_S": "0.2"})
    with httpx.Client(base_url=api.url, timeout=120.0) as client:
        the_same_as_by_openais_routes(client)
        as_fastchat_tells_them(client)
        another: list[Running] = []
        through_a_workers_death(
            client,
            worker,
            lambda: another.append(
                processes.start_worker(f"{MODEL}-cpu", redis_url, models_dir, wait=False)
            ),
        )
        gone_within_seconds(client, another[0])


def ask(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    return client.post(path, json={"model": MODEL, **body}).json()


def the_same_as_by_openais_routes(client: httpx.Client) -> None:
    conv = ask(client, "/worker_get_conv_template")["conv"]
    prompt = enveloped(conv, TURNS)
    chat = ask(client, "/v1/chat/completions", messages=TURNS, temperature=0, max_tokens=12)
    generated = ask(client, "/worker_generate", prompt=prompt, **GREEDY)
    assert generated["text"]
    assert generated["text"] == chat["choices"][0]["message"]["content"]
    assert generated["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"]
    counted = ask(client, "/count_token", prompt=prompt)
    assert counted == {"count": chat["usage"]["prompt_tokens"], "error_code": 0}

    human = f"{OPENING}\n### Human: {TURNS[3]['content']}\n### Assistant:"
    default = ask(client, "/worker_generate", prompt=human, stop="###", **GREEDY)
    alone = ask(client, "/v1/chat/completions", messages=TURNS[3:], temperature=0, max_tokens=12)
    assert default["text"] == alone["choices"][0]["message"]["content"]
    assert default["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]


def as_fastchat_tells_them(client: httpx.Client) -> None:
    asked = {"model": MODEL, "prompt": WATER, **GREEDY}
    with client.stream("POST", "/worker_generate_stream", json=asked) as answer:
        *shown, last = objects(answer)
    texts = [one["text"] for one in shown]
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert len(texts) > 3
    assert last["text"] == texts[-1]
    assert last["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 12
    echoed = ask(client, "/worker_generate", prompt=WATER, **{**GREEDY, "echo": True})
    assert echoed["text"] == WATER + last["text"]

    scored = {"prompt": WATER, **GREEDY, "echo": True, "logprobs": 2}
    openais = ask(
        client, "/v1/completions", prompt=WATER, temperature=0, max_tokens=12, echo=True, logprobs=2
    )
    fastchats = ask(client, "/worker_generate", **scored)
    assert fastchats["logprobs"]["token_logprobs"][0] is None  # the prompt's first token
    assert fastchats["logprobs"] == openais["choices"][0]["logprobs"]
    with client.stream(
        "POST", "/worker_generate_stream", json={"model": MODEL, **scored}
    ) as answer:
        *_, streamed = objects(answer)
    assert streamed == fastchats

    context = ask(client, "/model_details")["context_length"]
    long = {"prompt": "one " * (context // 4), **GREEDY, "max_new_tokens": 2**20}
    fitted = ask(client, "/worker_generate", **long)
    assert fitted["error_code"] == 0
    assert fitted["usage"]["total_tokens"] <= context
    assert (
        ask(client, "/worker_generate", prompt="one two " * context, **GREEDY)["error_code"]
        == 40303
    )


def through_a_workers_death(
    client: httpx.Client, worker: Running, start_another: Callable[[], object]
) -> None:
    body = {"model": MODEL, "prompt": WATER, **GREEDY, "max_new_tokens": 400}
    whole = client.post("/worker_generate", json=body).json()
    with client.stream("POST", "/worker_generate_stream", json=body) as answer:
        pieces: list[bytes] = []
        stream = objects(answer, pieces)
        begun = next(stream)
        worker.kill()
        start_another()
        *_, last = stream
    assert b"\0\0" in b"".join(pieces)  # kept alive meanwhile
    assert len(begun["text"]) < len(last["text"])
    assert last == whole


def gone_within_seconds(client: httpx.Client, worker: Running) -> None:
    def listed() -> list[str]:
        return client.post("/list_models").json()["models"]

    wait_until(lambda: listed() == [MODEL], 5.0)  # it has only just begun to serve
    worker.kill()
    wait_until(lambda: listed() == [], 5.0)
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == []
