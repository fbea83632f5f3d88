"""Responses, batches, Anthropic's messages and keys against the real commands and a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest
import redis

from penstock.transport import keys
from tests.fixtures.processes import ROOT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")


def make_key(redis_url: str, *arguments: str) -> str:
    """Run `penstock keys create`."""
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "keys", "create", *arguments],
        check=True, capture_output=True, text=True, cwd=ROOT,
        env={"PENSTOCK_REDIS_URL": redis_url, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "PATH": ""},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.slow
def test_a_day_of_the_fleet(  # noqa: PLR0915, PLR0917  one fleet for all of it
    processes: Processes,
    redis_url: str,
    models_dir: Path,
    tiny_llama: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Everything of it with one worker: starting one is what takes the time."""
    model = tiny_llama.name
    env = {"PENSTOCK_FILES_DIR": str(tmp_path / "files"), "PENSTOCK_REQUIRE_KEY": "true"}
    first = processes.start_api(redis_url, env=env)
    second = processes.start_api(redis_url, env=env)
    processes.start_worker(f"{model}-cpu", redis_url, models_dir)
    secret = make_key(redis_url, "ann", "--requests-per-minute", "1000")

    def forget_keys() -> None:
        with redis.Redis.from_url(redis_url, protocol=2) as store:
            store.delete(keys.API_KEYS)

    stack = ExitStack()
    request.addfinalizer(stack.close)
    stack.callback(forget_keys)

    def sdk(url: str) -> openai.OpenAI:
        return stack.enter_context(
            openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
        )

    one, two = sdk(first.url), sdk(second.url)
    wait_until(lambda: [card.id for card in two.models.list()], 30.0)
    wait_until(lambda: [card.id for card in one.models.list()], 30.0)
    assert httpx.get(f"{first.url}/v1/models").status_code == 401

    # What the model sees, and its tokens.
    headers = {"authorization": f"Bearer {secret}"}
    hello: Any = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    with httpx.Client(base_url=first.url, headers=headers) as http:
        seen = http.post("/v1/chat/completions/render", json=hello).json()
        counted = http.post("/tokenize", json=hello).json()
        assert counted["tokens"] == seen["token_ids"]
        assert "hello" in seen["prompt"]
        text = http.post("/tokenize", json={"prompt": "hello", "return_token_strs": True}).json()
        assert "hello" in "".join(text["token_strs"])
        back = http.post("/detokenize", json={"tokens": text["tokens"]}).json()
        assert back["prompt"].strip() == "hello"

    greedy: Any = {"model": model, "temperature": 0, "extra_body": {"ignore_eos": True}}
    response = one.responses.create(**greedy, input="hello", max_output_tokens=12)
    assert response.usage is not None
    assert response.usage.input_tokens == seen["prompt_tokens"]
    assert response.usage.output_tokens == 12
    chat = one.chat.completions.create(**greedy, messages=hello["messages"], max_tokens=12)
    assert response.output_text == chat.choices[0].message.content
    assert two.responses.retrieve(response.id).output_text == response.output_text

    client = stack.enter_context(
        anthropic.Anthropic(base_url=second.url, api_key=secret, max_retries=0)
    )
    with client.messages.stream(
        model=model, messages=hello["messages"], max_tokens=12,
        extra_body={"temperature": 0, "top_k": 1},
    ) as stream:  # fmt: skip
        message = stream.get_final_message()
    assert (
        message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
        == (seen["prompt_tokens"])
    )
    assert client.messages.count_tokens(
        model=model, messages=hello["messages"]
    ).input_tokens == seen["prompt_tokens"]  # fmt: skip

    # The API process that made an answer and drives a batch is killed; the other one goes on.
    lines = [
        {
            "custom_id": str(number), "method": "POST", "url": "/v1/completions",
            "body": {"model": model, "prompt": f"{number}", "max_tokens": 100, "temperature": 0,
                     "ignore_eos": True},
        }
        for number in range(24)
    ]  # fmt: skip
    content = "\n".join(map(json.dumps, lines)).encode()
    file = one.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = one.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )
    events: list[Any] = []
    with one.responses.create(
        **greedy, input="go on", max_output_tokens=120, background=True, stream=True
    ) as stream:
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
    wait_until(lambda: one.batches.retrieve(batch.id).status == "in_progress", 30.0)
    first.kill()
    rest = list(
        two.responses.retrieve(
            events[0].response.id, stream=True, starting_after=events[-1].sequence_number
        )
    )
    numbers = [event.sequence_number for event in (*events, *rest)]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.incomplete"
    assert rest[-1].response.usage is not None
    assert rest[-1].response.usage.output_tokens == 120
    wait_until(lambda: two.batches.retrieve(batch.id).status == "completed", 90.0)
    done = two.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert done.request_counts.completed == 24
    assert done.output_file_id is not None
    written = [json.loads(row) for row in two.files.content(done.output_file_id).text.splitlines()]
    assert [row["custom_id"] for row in written] == [str(number) for number in range(24)]
    assert all(row["response"]["body"]["usage"]["completion_tokens"] == 100 for row in written)
