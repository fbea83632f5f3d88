"""LiteLLM's SDK and instructor on a running fleet.

Run in an environment of its own (scripts/foreign/setup.sh litellm):
    PENSTOCK_TEST_URL=http://127.0.0.1:8000 python -m pytest scripts/foreign/litellm_suite.py
"""

from __future__ import annotations

import json
import os
from typing import Any, Literal

import anthropic
import instructor
import litellm
import openai
import pytest
from pydantic import BaseModel

URL = os.environ["PENSTOCK_TEST_URL"]
OPENAI: dict[str, Any] = {
    "model": "openai/demo",
    "api_base": f"{URL}/v1",
    "api_key": "none",
    "temperature": 0,
}
ANTHROPIC: dict[str, Any] = {
    "model": "anthropic/demo",
    "api_base": URL,
    "api_key": "none",
    "max_tokens": 100,
}
HELLO: Any = [{"role": "user", "content": "What is Penstock?"}]
ASK_WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: Any = {
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


class Person(BaseModel):
    """A form that even a random model can fill in."""

    mood: Literal["glad", "sad"]
    old: bool


@pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_completions(provider: dict[str, Any]) -> None:
    whole = litellm.completion(messages=HELLO, **provider)
    chunks = list(litellm.completion(messages=HELLO, stream=True, **provider))
    built: Any = litellm.stream_chunk_builder(chunks, messages=HELLO)
    assert built.choices[0].message.content
    if provider is OPENAI:
        assert built.choices[0].message.content == whole.choices[0].message.content


@pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_tools(provider: dict[str, Any]) -> None:
    asked = {**provider, "temperature": 0}
    answer = litellm.completion(messages=ASK_WEATHER, tools=[WEATHER], **asked)
    call = answer.choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Paris"}


async def test_other_calls() -> None:
    assert (await litellm.acompletion(messages=HELLO, **OPENAI)).usage.total_tokens > 0
    formed = litellm.completion(messages=HELLO, response_format=Person, **OPENAI)
    assert Person.model_validate_json(formed.choices[0].message.content)
    assert len(litellm.embedding(input=["a", "b"], **_but_temperature()).data) == 2
    assert litellm.responses(input="Hello", **OPENAI).output[0].content[0].text
    events = [event.type for event in litellm.responses(input="Hello", stream=True, **OPENAI)]
    assert events[-1] == "response.completed"
    text = litellm.text_completion(
        **{**OPENAI, "model": "text-completion-openai/tiny-llama"}, prompt="Once", max_tokens=4
    )
    assert text.choices[0].text


def _but_temperature() -> dict[str, Any]:
    return {name: value for name, value in OPENAI.items() if name != "temperature"}


def test_errors() -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=HELLO, **{**OPENAI, "model": "openai/none"})
    for provider in (OPENAI, ANTHROPIC):
        with pytest.raises(litellm.ContextWindowExceededError):
            litellm.completion(messages=[{"role": "user", "content": "a " * 3000}], **provider)


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS"])
def test_instructor(mode: str) -> None:
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    asked = instructor.from_openai(client, mode=instructor.Mode[mode])
    answer = asked.chat.completions.create(
        model="demo", messages=HELLO, response_model=Person, max_retries=0
    )
    assert isinstance(answer, Person)


def test_instructor_in_parts() -> None:
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    asked = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    parts = list(
        asked.chat.completions.create_partial(model="demo", messages=HELLO, response_model=Person)
    )
    assert parts[-1].mood in {"glad", "sad"}


def test_instructor_over_anthropic() -> None:
    asked = instructor.from_anthropic(anthropic.Anthropic(base_url=URL, api_key="none"))
    answer = asked.messages.create(
        model="demo", max_tokens=100, messages=HELLO, response_model=Person
    )
    assert isinstance(answer, Person)
