"""What Open WebUI sends to an OpenAI connection, read from its sources: at its start, for a chat
and for the small tasks beside it, for tools, and for its documents (embeddings and reranking).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.foreign.conftest import CODER, DEMO, EMBEDDER, RANKER

if TYPE_CHECKING:
    import httpx

HEADERS = {
    "Content-Type": "application/json",
    "Authorization": "Bearer",  # a connection without a key
    "X-OpenWebUI-User-Name": "Ann%20Example",
    "X-OpenWebUI-User-Id": "3f0c",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "b7d1",
}
ASKED: Any = [{"role": "user", "content": "What is Penstock?"}]


def stream(response: httpx.Response) -> list[Any]:
    """The chunks; it hands on what comes as `text/event-stream`, line by line."""
    assert response.status_code == 200, response.text
    assert "text/event-stream" in response.headers["content-type"]
    lines = [line for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_connection_is_verified_and_its_models_listed(http: httpx.Client) -> None:
    answer = http.get("models")
    assert answer.status_code == 200
    listed = answer.json()
    assert listed["object"] == "list"
    assert {DEMO, CODER, EMBEDDER, RANKER} <= {one["id"] for one in listed["data"]}
    assert all(one["object"] == "model" and one["owned_by"] for one in listed["data"])


def test_a_chat_streams_with_usage(http: httpx.Client) -> None:
    body = {
        "stream": True, "model": DEMO, "messages": ASKED, "temperature": 0, "top_p": 0.9,
        "max_tokens": 128, "seed": 1, "frequency_penalty": 0, "presence_penalty": 0,
        "stop": ["\n\n\n"], "logit_bias": {"17": -100}, "reasoning_effort": "low",
        "stream_options": {"include_usage": True},
        # What its own parameters and frontend leave in a body
        "params": {}, "features": {"web_search": False}, "variables": {"{{USER_NAME}}": "Ann"},
        "chat_id": "b7d1", "id": "m1", "session_id": "s1", "background_tasks": {},
        "metadata": {"chat_id": "b7d1"}, "repeat_penalty": 1.1, "num_ctx": 2048,
    }  # fmt: skip
    *chunks, usage = stream(http.post("chat/completions", json=body))
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert "Penstock" in said
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > usage["usage"]["prompt_tokens"] > 0


def test_parts_of_text_are_read(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "What is Penstock?", "cache_control": {"type": "ephemeral"}}]
    body: Any = {"model": DEMO, "temperature": 0, "stream": False}
    whole = http.post("chat/completions", json={**body, "messages": ASKED}).json()
    again = http.post(
        "chat/completions", json={**body, "messages": [{"role": "user", "content": parts}]}
    ).json()
    assert again["choices"][0]["message"]["content"] == whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize("bound", [{}, {"max_completion_tokens": 60}, {"max_tokens": 60}])
def test_title_tags_and_follow_ups(http: httpx.Client, bound: dict[str, int]) -> None:
    task = "### Task:\nGenerate a title for this chat as JSON.\n### Chat:\nUSER: What is Penstock?"
    answer = http.post(
        "chat/completions",
        json={
            "model": DEMO, "messages": [{"role": "user", "content": task}], "stream": False,
            **bound,
        },
    )  # fmt: skip
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    choice = answer.json()["choices"][0]
    assert isinstance(choice["message"]["content"], str)
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_tools_come_back_in_the_stream_and_their_answers_are_taken(http: httpx.Client) -> None:
    tool = {
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
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    body: Any = {
        "model": DEMO, "messages": messages, "tools": [tool], "stream": True, "temperature": 0,
    }  # fmt: skip
    chunks = stream(http.post("chat/completions", json=body))
    deltas = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert all(delta["index"] == 0 for delta in deltas)
    call: Any = {**deltas[0], "function": {**deltas[0]["function"], "arguments": ""}}
    for delta in deltas:
        call["function"]["arguments"] += delta["function"]["arguments"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    messages += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": '{"degrees": 21}'},
    ]
    said = stream(http.post("chat/completions", json=body))
    assert said[-1]["choices"][0]["finish_reason"] == "stop"


def test_errors_are_json_that_it_can_show(http: httpx.Client) -> None:
    answer = http.post(
        "chat/completions", json={"model": "none", "messages": ASKED, "stream": True}
    )
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("application/json")
    assert "none" in answer.json()["error"]["message"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    refused = http.post(
        "chat/completions",
        json={"model": DEMO, "messages": [{"role": "user", "content": [image]}], "stream": True},
    )
    assert refused.status_code == 400
    assert "text only" in refused.json()["error"]["message"]


@pytest.mark.parametrize("more", [{}, {"prefix": "query: "}])
def test_documents_are_embedded(http: httpx.Client, more: dict[str, str]) -> None:
    body = {"input": ["water flows", "a queue"], "model": EMBEDDER, **more}
    found = http.post("embeddings", json=body).json()["data"]
    assert [type(one["embedding"][0]) for one in found] == [float, float]


def test_results_are_reranked(http: httpx.Client) -> None:
    documents = ["water flows", "paris is the capital", "a queue keeps"]
    body = {"model": RANKER, "query": "water", "documents": documents, "top_n": 3}
    results = http.post("rerank", json=body).json()["results"]
    assert sorted(one["index"] for one in results) == [0, 1, 2]
    assert all(isinstance(one["relevance_score"], float) for one in results)
