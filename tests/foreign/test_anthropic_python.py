"""Anthropic's own Python SDK on a running fleet: messages, streams, tools, counting, errors."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from pydantic import BaseModel

from tests.fixtures import vision
from tests.foreign.conftest import DEMO, SEEING, TINY

if TYPE_CHECKING:
    from collections.abc import Iterator

WEATHER: Any = {
    "name": "get_weather",
    "description": "Get the current weather for a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city"}},
        "required": ["city"],
    },
}
HELLO: Any = [{"role": "user", "content": "What is Penstock?"}]
ASK_WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
GREEDY: Any = {"model": DEMO, "max_tokens": 100, "extra_body": {"temperature": 0}}


class Age(BaseModel):
    """A form that even a random model can fill in."""

    adult: bool


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_message_whole_and_streamed(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(messages=HELLO, system="Be polite.", **GREEDY)
    with client.messages.stream(messages=HELLO, system="Be polite.", **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text"
    assert text == whole.content[0].text
    assert isinstance(final.content[0], anthropic.types.TextBlock)
    assert final.content[0].text == text
    assert final.stop_reason == whole.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert whole._request_id
    events = list(client.messages.create(messages=HELLO, stream=True, **GREEDY))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_images(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": SEEING, "max_tokens": 8, "extra_body": {"temperature": 0}}
    texts: list[str] = []
    for seed in (1, 1, 2):
        source = {
            "type": "base64", "media_type": "image/png",
            "data": base64.b64encode(vision.picture(seed)).decode(),
        }  # fmt: skip
        content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
        messages: Any = [{"role": "user", "content": content}]
        with client.messages.stream(messages=messages, **asked) as stream:
            texts.append(stream.get_final_text())
        assert client.messages.create(messages=messages, **asked).content[0].text == texts[-1]  # type: ignore[union-attr] - a text block
    assert texts[0] == texts[1] != texts[2]
    counted = client.messages.count_tokens(model=SEEING, messages=messages)
    assert counted.input_tokens > (vision.SIDE // vision.PATCH) ** 2
    use: Any = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
    turns: Any = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    assert client.messages.create(messages=turns, **asked).usage.output_tokens > 0
    with pytest.raises(anthropic.BadRequestError, match=SEEING):
        client.messages.create(messages=messages, **{**asked, "model": DEMO})


def test_a_round_of_tools(client: anthropic.Anthropic) -> None:
    with client.messages.stream(messages=ASK_WEATHER, tools=[WEATHER], **GREEDY) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        first = stream.get_final_message()
    assert first.stop_reason == "tool_use"
    call = next(block for block in first.content if block.type == "tool_use")
    assert call.input == {"city": "Paris"}
    assert "".join(parts)
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 17}'}
    turns: Any = [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(messages=[*ASK_WEATHER, *turns], tools=[WEATHER], **GREEDY)
    assert second.content[0].type == "text"
    assert "17" in second.content[0].text


def test_the_runner_of_tools(client: anthropic.Anthropic) -> None:
    cities: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the current weather for a city.

        Args:
            city: The city
        """
        cities.append(city)
        return '{"temperature": 17}'

    runner = client.beta.messages.tool_runner(messages=ASK_WEATHER, tools=[get_weather], **GREEDY)
    final = runner.until_done()
    assert cities == ["Paris"]
    assert final.content[0].type == "text"
    assert "17" in final.content[0].text


def test_parse(client: anthropic.Anthropic) -> None:
    answer = client.messages.parse(model=TINY, max_tokens=100, messages=HELLO, output_format=Age)
    assert isinstance(answer.parsed_output, Age)


def test_counting_and_models(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=DEMO, messages=HELLO, tools=[WEATHER])
    message = client.messages.create(messages=HELLO, tools=[WEATHER], **GREEDY)
    cached = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + cached
    assert DEMO in [model.id for model in client.models.list()]
    assert client.models.retrieve(DEMO).id == DEMO


async def test_async_client(url: str) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none") as client,
        client.messages.stream(messages=HELLO, **GREEDY) as stream,
    ):
        text = "".join([part async for part in stream.text_stream])
        assert await stream.get_final_text() == text


def test_error_classes(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="none", max_tokens=4, messages=HELLO)
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model=DEMO, max_tokens=0, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model=DEMO, max_tokens=4, messages=[])
    raw = client.messages.with_raw_response.create(messages=HELLO, **GREEDY)
    assert raw.headers["request-id"]
    assert raw.parse().content
