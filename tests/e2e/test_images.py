"""Images through every protocol to a real worker with a tiny model that reads them."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock import image_bytes
from tests.fixtures import image_requests, vision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fixtures.processes import Processes, Running

pytest.importorskip("PIL", reason="Pillow is not installed")
pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MODEL = "llava"
PICTURE, OTHER = vision.picture(1), vision.picture(2, kind="JPEG")
IMAGE_TOKENS = 16
ANSWER = 300
HEADERS = {"idempotency-key": "an answer about an image"}


def chat(*pictures: bytes, **more: Any) -> dict[str, Any]:
    return image_requests.chat(MODEL, *pictures, **more)


def test_every_protocol_takes_images(
    processes: Processes, redis_url: str, models_dir: Path, tmp_path: Path
) -> None:
    vision.write(MODEL, tmp_path / MODEL)
    (tmp_path / "text").symlink_to(models_dir / "tiny-llama")
    worker = processes.start_worker(f"{MODEL}-cpu,text-cpu", redis_url, tmp_path)
    api = processes.start_api(redis_url)
    with httpx.Client(base_url=api.url, timeout=120.0) as client:

        def ask(path: str, body: dict[str, Any], status: int = 200) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code == status, answer.text
            return answer.json()

        answers_are_alike(ask)
        refusals_are_clear(ask)
        damaged_images_are_refused(client)
    assert "LOAD REPORT" not in worker.output()  # of the layers that the tower's load leaves out
    a_killed_workers_answer_goes_on(api.url, processes, worker, redis_url, tmp_path)


def answers_are_alike(ask: Callable[..., Any]) -> None:
    first = ask("/v1/chat/completions", chat(PICTURE))
    text = first["choices"][0]["message"]["content"]
    assert text
    assert text != ask("/v1/chat/completions", chat(OTHER))["choices"][0]["message"]["content"]
    assert first["usage"]["prompt_tokens"] == ask("/tokenize", chat(PICTURE))["count"]
    again = ask("/v1/chat/completions", chat(PICTURE))
    assert again["choices"][0]["message"]["content"] == text
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16

    def asked(way: str) -> Any:
        path, body = image_requests.WAYS[way]
        return ask(path, body(MODEL, PICTURE))

    assert asked("responses")["output"][0]["content"][0]["text"] == text
    assert asked("messages")["content"][0]["text"] == text
    assert asked("count")["input_tokens"] == first["usage"]["prompt_tokens"]
    assert asked("ollama chat")["message"]["content"] == text
    fastchat = asked("fastchat")
    assert fastchat["text"]
    assert fastchat["usage"]["prompt_tokens"] >= IMAGE_TOKENS
    assert ask("/list_multimodal_models", {})["models"] == [MODEL]

    both = ask("/v1/chat/completions", chat(PICTURE, OTHER))
    assert both["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"] + IMAGE_TOKENS
    none = ask("/v1/chat/completions", chat())
    assert none["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"] - IMAGE_TOKENS


def refusals_are_clear(ask: Callable[..., Any]) -> None:
    refused = ask("/v1/chat/completions", {**chat(PICTURE), "model": "text"}, 400)["error"]
    assert refused["code"] == "unsupported_feature"
    assert "llava" in refused["message"]
    for broken in (b"no image", PICTURE[:-40], PICTURE[:60]):
        error = ask("/v1/chat/completions", chat(broken), 400)["error"]
        assert "image" in error["message"]
    foreign = chat(PICTURE)
    foreign["messages"][0]["content"][0]["image_url"]["url"] = "https://example.com/a.png"
    assert "data: URL" in ask("/v1/chat/completions", foreign, 400)["error"]["message"]
    marked = chat(PICTURE)
    marked["messages"][0]["content"][1]["text"] = "an <image> in words"
    assert ask("/v1/chat/completions", marked)["choices"][0]["message"]["content"]


def damaged_images_are_refused(client: httpx.Client) -> None:
    """In every dialect a broken file is the request's error or, if enough of it is left, an answer."""
    generator = random.Random(1)
    refused: Counter[bool] = Counter()
    for kind in image_bytes.KINDS:
        whole = vision.picture(3, 20, 16, kind)
        for path, body in image_requests.WAYS.values():
            asked = body(MODEL, damaged(whole, generator))
            refused[image_requests.is_refused(client.post(path, json=asked))] += 1
        file = {"file": ("a.png", damaged(whole, generator))}
        stored = client.post("/v1/files", files=file, data={"purpose": "vision"}).json()
        asked = image_requests.responses(MODEL, {"file_id": stored["id"]})
        refused[image_requests.is_refused(client.post("/v1/responses", json=asked))] += 1
    assert set(refused) == {False, True}


def damaged(whole: bytes, generator: random.Random) -> bytes:
    """A picture with some bytes changed, its end cut off at times."""
    broken = bytearray(whole)
    for _ in range(generator.randint(1, 6)):
        broken[generator.randrange(8, len(broken))] = generator.randrange(256)
    least = generator.choice((20, len(broken)))
    return bytes(broken[: generator.randint(least, len(broken))])


def a_killed_workers_answer_goes_on(
    url: str, processes: Processes, worker: Running, redis_url: str, models: Path
) -> None:
    """The client sees a pause; the answer is the one that nobody disturbed."""
    body = chat(PICTURE, OTHER, max_tokens=ANSWER, ignore_eos=True, stream=True)
    text = ""
    with (
        httpx.Client(base_url=url, timeout=120.0) as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=HEADERS) as answer,
    ):
        assert answer.status_code == 200
        count = 0
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            count += 1
            if count == 20:
                worker.kill()
                processes.start_worker(f"{MODEL}-cpu", redis_url, models, wait=False)
    with httpx.Client(base_url=url, timeout=120.0) as client:
        whole = client.post("/v1/chat/completions", json={**body, "stream": False}).json()
        assert whole["usage"]["completion_tokens"] == ANSWER
        assert whole["choices"][0]["message"]["content"] == text
        # The key names that very answer; with another image it is another request.
        again = client.post("/v1/chat/completions", json={**body, "stream": False}, headers=HEADERS)
        assert again.json()["choices"][0]["message"]["content"] == text
        other = client.post(
            "/v1/chat/completions", json=chat(OTHER, PICTURE, max_tokens=ANSWER, ignore_eos=True),
            headers=HEADERS,
        )  # fmt: skip
        assert other.status_code in (400, 409, 422), other.text
