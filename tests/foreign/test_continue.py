"""What Continue sends to a server by its provider `openai`, field by field.

Read from its sources: autocomplete asks /completions with a prompt that Continue has written with
the model's own tokens (the provider has no `suffix`), and relies on stops that are tokens; chat,
embeddings and the list of models go through OpenAI's SDK, reranking by its provider `vllm`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.foreign.conftest import CODER, DEMO, EMBEDDER, RANKER

if TYPE_CHECKING:
    import httpx

BEFORE, AFTER = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
QWEN = "<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"
QWEN_STOPS = [
    "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<|im_start|>", "<|im_end|>",
]  # fmt: skip
EVERYWHERE = ["/src/", "#- coding: utf-8", "```"]
"""Stops that Continue adds for every model."""
HEADERS = {"Authorization": "Bearer none", "api-key": "none"}


def frames(response: httpx.Response) -> list[Any]:
    """The stream as Continue reads it: lines of `data:` up to the end mark, comments left out."""
    assert response.status_code == 200, response.text
    read: list[Any] = []
    for line in response.text.split("\n"):
        if line.startswith("data: [DONE]"):
            return read
        assert not line.startswith(": ping")  # Continue takes this for the end
        if line.startswith("data:"):
            read.append(json.loads(line.removeprefix("data:")))
    raise AssertionError("the stream has no end mark")


def completed(http: httpx.Client, prompt: str, **more: Any) -> list[Any]:
    body = {
        "model": CODER, "max_tokens": 24, "temperature": 0.01, "stream": True,
        "stop": QWEN_STOPS + EVERYWHERE, "prompt": prompt, **more,
    }  # fmt: skip
    return frames(http.post("completions", json=body))


def ids(http: httpx.Client, prompt: str) -> list[int]:
    """The tokens of a prompt, as the server sees them."""
    asked = {"model": CODER, "prompt": prompt}
    answer: Any = http.post(http.base_url.join("/tokenize"), json=asked).json()
    return answer["tokens"]


def text(read: list[Any]) -> str:
    return "".join(frame["choices"][0]["text"] for frame in read if frame["choices"])


def test_autocomplete_is_the_models_own_filling_in(http: httpx.Client) -> None:
    prompt = QWEN.format(before=BEFORE, after=AFTER)
    told = text(completed(http, prompt, seed=1))
    suffixed = http.post(
        "completions",
        json={
            "model": CODER, "prompt": BEFORE, "suffix": AFTER, "max_tokens": 24,
            "temperature": 0.01, "seed": 1, "stop": QWEN_STOPS + EVERYWHERE,
        },
    ).json()  # fmt: skip
    assert told == suffixed["choices"][0]["text"] != ""
    [prefix] = ids(http, "<|fim_prefix|>")
    assert ids(http, prompt)[0] == prefix
    assert suffixed["usage"]["prompt_tokens"] == len(ids(http, prompt))


def test_autocomplete_with_several_files(http: httpx.Client) -> None:
    files = "<|repo_name|>mine\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\n"
    read = completed(http, files + QWEN.format(before=BEFORE, after=AFTER))
    assert read[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert {frame["object"] for frame in read} == {"text_completion"}


@pytest.mark.parametrize("stop", ["<|fim_pad|>", "<|file_sep|>", "<|im_start|>"])
def test_a_stop_that_is_a_token_ends_the_text(http: httpx.Client, stop: str) -> None:
    [token] = ids(http, stop)
    read = completed(http, BEFORE, logit_bias={str(token): 100})
    assert text(read) == ""
    assert read[-1]["choices"][0]["finish_reason"] == "stop"


def test_chat(http: httpx.Client) -> None:
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is Penstock?"},
            {"role": "assistant", "content": " "},
            {"role": "user", "content": "What is the weather in Paris?"},
        ],
        "model": DEMO, "max_tokens": 100, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "parallel_tool_calls": False,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "Get the current weather for a city.",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string", "description": "The city"}},
                        "required": ["city"],
                    },
                },
            }
        ],
    }  # fmt: skip
    *read, last = frames(http.post("chat/completions", json=body))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    calls = [c for f in read for c in f["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "get_weather"
    assert json.loads("".join(c["function"]["arguments"] for c in calls)) == {"city": "Paris"}
    assert read[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_models_and_embeddings(http: httpx.Client) -> None:
    models = {one["id"]: one for one in http.get("models").json()["data"]}
    assert models[CODER]["max_model_len"] == 2048
    assert "fim" in models[CODER]["capabilities"]
    chunks = [f"text number {n}" for n in range(64)]
    vectors = http.post("embeddings", json={"input": chunks, "model": EMBEDDER}).json()["data"]
    assert [one["index"] for one in vectors] == list(range(64))
    assert len({len(one["embedding"]) for one in vectors}) == 1


def test_rerank(http: httpx.Client) -> None:
    body = {"model": RANKER, "query": "water", "documents": ["water flows", "paris"]}
    results = http.post("rerank", json=body).json()["results"]
    assert sorted(one["index"] for one in results) == [0, 1]
    assert all(0 <= one["relevance_score"] <= 1 for one in results)
