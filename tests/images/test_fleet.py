"""compose.yaml in use: chats, workers that die and come, files and batches at several API processes."""

from __future__ import annotations

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from tests.images.compose import Compose

MODEL, WORKER = "bigdl-demo", "worker-demo-cpu"
TOKENS = 900
LONG: dict[str, Any] = {
    "model": MODEL,
    "temperature": 0,
    "max_tokens": TOKENS,
    "stream": True,
    "stream_options": {"include_usage": True},
    "extra_body": {"ignore_eos": True},
}
QUESTIONS = [f"Number {number}: what does a mill do with a river?" for number in range(8)]
OURS = ("redis", "proxy", "api", WORKER)
UPLOAD_BYTES = 20 * 1024 * 1024
BUSY_S = 300.0
"""Until both workers have a part of the answers."""
ANSWER_S = 900.0
"""Of a long answer, or a batch, on a machine that does much else."""


@pytest.fixture(scope="module")
def client(fleet: Compose) -> Iterator[openai.OpenAI]:
    url = f"{fleet.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=ANSWER_S) as made:
        yield made


def answer(client: openai.OpenAI, question: str) -> tuple[str, int]:
    """Return a long answer as it streamed, and the tokens that its usage counts."""
    texts, tokens = list[str](), 0
    messages: Any = [{"role": "user", "content": question}]
    for chunk in client.chat.completions.create(messages=messages, **LONG):
        texts += [choice.delta.content or "" for choice in chunk.choices]
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return "".join(texts), tokens


def running(fleet: Compose) -> dict[str, int]:
    """Return how many answers each worker decodes, by its host, the container's short id."""
    return {
        worker["host"]: sum(model.get("running", 0) for model in worker["models"])
        for worker in fleet.fleet()["workers"]
    }


@pytest.fixture(scope="module")
def undisturbed(client: openai.OpenAI) -> list[tuple[str, int]]:
    return [answer(client, question) for question in QUESTIONS]


def test_a_chat(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is Penstock?"}]
    plain = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert plain.choices[0].message.content
    streamed = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, stream=True
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(texts) == plain.choices[0].message.content


@pytest.mark.parametrize("service", OURS)
def test_a_container_can_do_no_more_than_it_needs(fleet: Compose, service: str) -> None:
    (container,) = fleet.containers(service)
    assert fleet.run_in(container, "id", "-u") != "0"
    status = fleet.run_in(container, "cat", "/proc/1/status")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    assert int(lines["CapEff"], 16) == 0
    assert lines["NoNewPrivs"].strip() == "1"
    written = fleet.docker.tried("exec", "--user", "0", container, "touch", "/etc/x", "/usr/x")
    assert "Read-only file system" in written.stderr


@contextmanager
def streaming(fleet: Compose, client: openai.OpenAI) -> Iterator[list[Future[tuple[str, int]]]]:
    """Give all answers while two workers decode them."""
    fleet.up(worker_demo_cpu=2)
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        answers = [pool.submit(answer, client, question) for question in QUESTIONS]
        wait_until(lambda: all(running(fleet).values()), BUSY_S, poll_s=0.1)
        yield answers


def test_a_killed_workers_streams_go_on_at_another(
    fleet: Compose, client: openai.OpenAI, undisturbed: list[tuple[str, int]]
) -> None:
    assert {tokens for _, tokens in undisturbed} == {TOKENS}
    with streaming(fleet, client) as answers:
        busiest = max(running(fleet).items(), key=lambda worker: worker[1])[0]
        fleet.docker("kill", busiest)
        assert [one.result() for one in answers] == undisturbed
    fleet.docker("start", busiest)


def test_a_stopped_worker_loses_nothing(
    fleet: Compose, client: openai.OpenAI, undisturbed: list[tuple[str, int]]
) -> None:
    with streaming(fleet, client) as answers:
        fleet.up(worker_demo_cpu=1)  # the other gets SIGTERM, and finishes or hands back
        assert [one.result() for one in answers] == undisturbed
    assert len(fleet.containers(WORKER)) == 1


def test_a_killed_api_process_takes_its_own_requests_alone(fleet: Compose) -> None:
    fleet.up(api=3)
    messages = [{"role": "user", "content": "What does a mill do with a river?"}]
    body = {"model": MODEL, "max_tokens": 300, "ignore_eos": True, "messages": messages}

    def ask() -> int:
        url = f"{fleet.url}/v1/chat/completions"
        return httpx.post(url, json=body, timeout=ANSWER_S).status_code

    def connections(container: str) -> int:
        listed = fleet.run_in(container, "cat", "/proc/net/tcp").splitlines()[1:]
        lines = (line.split() for line in listed)
        return sum(line[1].endswith(":1F40") and line[3] == "01" for line in lines)

    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(ask) for _ in range(9)]
        wait_until(lambda: any(running(fleet).values()), BUSY_S, poll_s=0.1)
        busiest = max(fleet.containers("api"), key=connections)
        fleet.docker("kill", busiest)
        for _ in range(20):
            assert httpx.get(f"{fleet.url}/health", timeout=30).status_code == 200
        statuses = {one.result() for one in asked}
    assert statuses == {200, 502}
    fleet.docker("start", busiest)


def test_three_apis_serve_the_same_files(fleet: Compose, client: openai.OpenAI) -> None:
    fleet.up(api=3)
    content = random.Random(1).randbytes(UPLOAD_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    stored = client.files.create(file=("twenty.bin", content), purpose="user_data")
    assert stored.bytes == UPLOAD_BYTES
    code = (
        "import hashlib, urllib.request as r; print(hashlib.sha256(r.urlopen("
        f"'http://127.0.0.1:8000/v1/files/{stored.id}/content').read()).hexdigest())"
    )
    containers = fleet.containers("api")
    assert len(containers) == 3
    for container in containers:
        assert fleet.run_in(container, "python", "-c", code) == digest
    client.files.delete(stored.id)


def test_a_batch_survives_an_api_process(fleet: Compose, client: openai.OpenAI) -> None:
    fleet.up(api=3)
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "max_tokens": 200, "temperature": 0, "ignore_eos": True,
                     "messages": [{"role": "user", "content": f"Number {number}"}]},
        }
        for number in range(40)
    ]  # fmt: skip
    file = client.files.create(
        file=("lines.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch"
    )
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    fleet.docker("kill", fleet.containers("api")[0])
    ended = ("completed", "failed", "expired", "cancelled")
    wait_until(lambda: client.batches.retrieve(batch.id).status in ended, ANSWER_S, poll_s=0.5)
    done = client.batches.retrieve(batch.id)
    assert (done.status, done.errors) == ("completed", None)
    assert done.output_file_id is not None
    written = client.files.content(done.output_file_id).text
    answers = [json.loads(line) for line in written.splitlines()]
    assert sorted(one["custom_id"] for one in answers) == sorted(one["custom_id"] for one in lines)
    assert all(one["response"]["status_code"] == 200 for one in answers)
