"""OpenAI's SDK against `uvicorn api:app`, a Celery worker and a tiny model: the real commands."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import redis

from tests.fixtures.processes import card_of, store_and_processes, wait_until
from tests.fixtures.redis import OWNED_BY_CELERY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.processes import Running

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MODEL = "tiny-llama"
KEY = "sk-test"
GREEDY: Any = {"model": MODEL, "temperature": 0, "max_tokens": 24}


def chat(text: str = "Tell me of rivers.") -> Any:
    return [{"role": "user", "content": text}]


class Stack:
    """One API and one worker, for all tests of this file."""

    def __init__(self, api: Running, worker: Running, redis_url: str) -> None:
        self.url = api.url
        self.worker = worker
        self.redis_url = redis_url

    def load(self) -> Any:
        card = card_of(self.redis_url, self.worker.pid)
        assert card is not None
        return card.loads[f"{MODEL}-cpu"]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tiny_llama: Path
) -> Iterator[Stack]:
    with store_and_processes(tmp_path_factory.mktemp("openai")) as (redis_url, processes):
        api = processes.start_api(redis_url, env={"PENSTOCK_API_KEYS": KEY})
        worker = processes.start_worker(f"{tiny_llama.name}-cpu", redis_url, models_dir)
        wait_until(lambda: httpx.get(f"{api.url}/ready").status_code == 200)
        yield Stack(api, worker, redis_url)
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            kept = [key.decode() for key in client.scan_iter() if client.ttl(key) == -1]
        assert [key for key in kept if not key.startswith(OWNED_BY_CELERY)] == []


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_the_api_loads_no_model_library() -> None:
    code = (
        "import api, sys; "
        "assert not {'torch', 'transformers', 'penstock.engine', 'workers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src:."})


def test_a_bad_setting_ends_the_start_with_its_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import api"], check=False, capture_output=True, text=True,
        env={"PYTHONPATH": "src:.", "PENSTOCK_KEEPALIVE_S": "soon"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "PENSTOCK_KEEPALIVE_S" in done.stderr
    assert "Traceback" not in done.stderr


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "penstock"


def test_a_streamed_answer_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=chat(), **GREEDY)
    chunks = list(
        client.chat.completions.create(
            messages=chat(), stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(text) > 10
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_seeds_repeat_and_choices_differ(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": chat(), "max_tokens": 16, "temperature": 1.0}
    first = client.chat.completions.create(seed=3, n=3, **asked)
    again = client.chat.completions.create(seed=3, n=3, **asked)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    alone = client.chat.completions.create(seed=3, **asked)
    assert alone.choices[0].message.content == texts[0]
    other = client.chat.completions.create(seed=4, **asked)
    assert other.choices[0].message.content != texts[0]


def test_stop(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="Once", **GREEDY).choices[0].text
    stop = whole[8:11]
    cut = client.completions.create(prompt="Once", stop=[stop], **GREEDY).choices[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    streamed = client.completions.create(prompt="Once", stop=stop, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in streamed) == cut.text


def test_echo_and_several_prompts(client: openai.OpenAI) -> None:
    prompts = ["Once upon", "A river"]
    answer = client.completions.create(prompt=prompts, echo=True, **GREEDY)
    alone = [client.completions.create(prompt=p, **GREEDY).choices[0].text for p in prompts]
    assert [c.text for c in answer.choices] == [p + t for p, t in zip(prompts, alone, strict=True)]


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=chat(), logprobs=True, top_logprobs=4, **GREEDY
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content
    assert content is not None
    assert len(content) == 24
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 4
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob), "greedy"
    old = client.completions.create(prompt="Once", logprobs=2, **GREEDY).choices[0].logprobs
    assert old is not None
    assert old.tokens is not None
    assert old.text_offset is not None
    assert len(old.tokens) == len(old.text_offset) == 24
    assert old.text_offset[0] == 0


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"model": "none"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_parameter"),
        ({"messages": [{"role": "x", "content": ""}]}, openai.BadRequestError, "invalid_parameter"),
        ({"messages": chat("river " * 4000)}, openai.BadRequestError, "context_length_exceeded"),
        ({"tools": [{"type": "function"}], "stream": True}, openai.BadRequestError, None),
        ({"messages": chat("x" * 9_000_000)}, openai.APIStatusError, "body_too_large"),
    ],
)
def test_errors(client: openai.OpenAI, asked: Any, error: Any, code: str | None) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"messages": chat(), **GREEDY, **asked})
    assert code is None or caught.value.code == code


def test_a_stream_that_overflows_has_its_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(messages=chat("river " * 4000), stream=True, **GREEDY)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


def test_a_wrong_key(stack: Stack) -> None:
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_going_away_frees_the_slot(stack: Stack, client: openai.OpenAI) -> None:
    endless: Any = {"messages": chat(), "model": MODEL, "extra_body": {"ignore_eos": True}}
    with client.chat.completions.create(stream=True, **endless) as stream:
        for _ in zip(range(3), stream, strict=False):
            pass
        wait_until(lambda: stack.load().running == 1)
    wait_until(lambda: stack.load().running == 0, 5.0)

    def ask() -> None:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).chat.completions.create(n=3, **endless)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(20.0)
    wait_until(lambda: stack.load().running == 0, 10.0)


async def test_thirty_two_at_once_answer_as_each_alone(stack: Stack) -> None:
    prompts = [f"Number {n}: a river and {'its mill ' * (n % 5)}" for n in range(32)]
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=KEY) as client:

        async def ask(prompt: str) -> str:
            stream = await client.chat.completions.create(
                messages=chat(prompt), stream=True, **GREEDY
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        together = await asyncio.gather(*map(ask, prompts))
        alone = [await ask(prompt) for prompt in prompts]
    assert together == alone


def test_metrics_of_all_that(stack: Stack) -> None:
    text = httpx.get(f"{stack.url}/metrics").text
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds"):
        assert f'penstock_{name}_count{{device="cpu",model="{MODEL}"}}' in text
    assert f'penstock_kv_cache_usage_ratio{{device="cpu",model="{MODEL}"' in text
