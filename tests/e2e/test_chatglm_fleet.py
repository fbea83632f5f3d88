"""ChatGLM folders as published, by one worker: OpenAI's and FastChat's routes answer alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library
from tests.e2e.test_fastchat_fleet import TURNS, enveloped
from tests.fixtures import chatglm

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

NAMES = ("chatglm2-6b", "chatglm3-6b", "glm-4-9b-chat")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"enum": ["two", "four"]}},
    "required": ["n"],
    "additionalProperties": False,
}


def test_both_protocols_answer_alike(processes: Processes, redis_url: str, tmp_path: Path) -> None:
    try:
        library.library()
    except ModelNotLoadable as missing:
        pytest.skip(str(missing))
    for name in NAMES:
        chatglm.write(tmp_path / name, chatglm.GENERATIONS[name])
    processes.start_worker(",".join(f"{name}-cpu" for name in NAMES), redis_url, tmp_path)
    api = processes.start_api(redis_url)
    with httpx.Client(base_url=api.url, timeout=120.0) as client:
        for name in NAMES:
            answers(client, name)


def answers(client: httpx.Client, name: str) -> None:
    """A chat by both protocols, and a form that the tokens must fill in."""

    def ask(path: str, **body: Any) -> Any:
        answer = client.post(path, json={"model": name, **body})
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    prompt = enveloped(ask("/worker_get_conv_template")["conv"], TURNS)
    chat = ask("/v1/chat/completions", messages=TURNS, temperature=0, max_tokens=12)
    greedy = {"temperature": 0.0, "echo": False, "max_new_tokens": 12}
    generated = ask("/worker_generate", prompt=prompt, **greedy)
    assert generated["text"]
    assert generated["text"] == chat["choices"][0]["message"]["content"]
    assert generated["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"]
    form = {"name": "n", "strict": True, "schema": SCHEMA}
    filled = ask(
        "/v1/chat/completions",
        messages=TURNS[3:],
        max_tokens=200,
        seed=1,
        response_format={"type": "json_schema", "json_schema": form},
    )["choices"][0]
    assert filled["finish_reason"] == "stop"
    assert '"two"' in filled["message"]["content"] or '"four"' in filled["message"]["content"]
