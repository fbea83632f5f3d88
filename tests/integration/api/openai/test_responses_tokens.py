"""/tokenize, /detokenize and /v1/chat/completions/render over a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.api import Fleet
    from tests.fixtures.clerk import Clerk

HELLO: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def http(fleet: Fleet, clerk: Clerk) -> Iterator[httpx.Client]:
    server = fleet.api()
    fleet.worker()
    with httpx.Client(base_url=server.url, timeout=20.0) as http:
        yield http


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_text(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"model": "tiny", "prompt": "ab"})
    assert answer.json() == {
        "count": 3,
        "max_model_len": 512,
        "tokens": [1, *ids("ab")],
        "token_strs": None,
    }
    body = {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    plain = http.post("/tokenize", json=body).json()
    assert plain["tokens"] == ids("ab")
    assert plain["token_strs"] == ["a", "b"]


def test_a_chat(http: httpx.Client) -> None:
    body = {"model": "tiny", "messages": HELLO}
    whole = http.post("/tokenize", json=body).json()
    assert whole["tokens"] == ids("user:hi\nassistant:")
    bare = http.post("/tokenize", json={**body, "add_generation_prompt": False}).json()
    assert bare["tokens"] == ids("user:hi")
    back = http.post("/detokenize", json={"model": "tiny", "tokens": whole["tokens"]})
    assert back.json() == {"prompt": "user:hi\nassistant:"}


def test_what_the_model_will_see(http: httpx.Client) -> None:
    body = {"model": "org/tiny", "messages": HELLO, "temperature": 0, "stream": True}
    seen = http.post("/v1/chat/completions/render", json=body).json()
    assert seen["prompt"] == "user:hi\nassistant:"
    assert seen["token_ids"] == ids(seen["prompt"])
    assert seen["prompt_tokens"] == len(seen["token_ids"])
    assert seen["model"] == "org/tiny"


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, 400, "prompt"),
        ("/tokenize", {"prompt": 3}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "none"}, 404, "model"),
        ("/tokenize", {"messages": [{"role": "x"}]}, 400, "messages[0].role"),
        ("/tokenize", {"messages": [{"role": "user", "content": "refuse me"}]}, 400, "messages"),
        ("/tokenize", {"prompt": "refuse me"}, 400, "prompt"),
        ("/detokenize", {"tokens": [512]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": "a"}, 400, "tokens"),
        ("/v1/chat/completions/render", {"messages": HELLO}, 400, "model"),
    ],
)
def test_bad_requests(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


def test_several_models_need_a_name(fleet: Fleet, http: httpx.Client) -> None:
    fleet.worker(name="other", queue="other-cpu", aliases=())
    answer = http.post("/tokenize", json={"prompt": "a"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "model"


def test_the_bodies_are_documented(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for name in ("TokenizeRequest", "DetokenizeRequest", "ChatRequest"):
        assert name in document["components"]["schemas"]
