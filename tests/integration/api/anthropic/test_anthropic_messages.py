"""/v1/messages by Anthropic's SDK, over a real Redis and a scripted worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import pytest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.contract.structure import ToolStructure
from tests.fixtures.api import WORDS, chat_of, drone, speak
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script
    from tests.fixtures.clerk import Clerk

TEXT = "".join(WORDS)
HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "name": "weather",
    "description": "the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
HERMES = {"tool_parser": "hermes", "capabilities": ("generate", "structure")}


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def client(server: ApiServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def says(*pieces: str) -> Any:
    """Return a script that says these pieces, whatever is asked."""

    def script(job: Job) -> Script:
        for index, piece in enumerate(pieces):
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=None if index else 3)
        usage = Usage(3, len(pieces), 1)
        yield Finished(job.id, len(pieces), FinishReason.STOP, usage)

    return script


def ask(client: anthropic.Anthropic, **fields: Any) -> Any:
    # This SDK does not name them any more, but older ones send them.
    older = {name: fields.pop(name) for name in ("temperature", "top_k") if name in fields}
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 9, **fields}
    return client.messages.create(**asked, extra_body=older or None)


def test_a_message(fleet: Fleet, client: anthropic.Anthropic) -> None:
    worker = fleet.worker()
    message: Any = ask(
        client, system="be brief", temperature=0.0, top_k=5, metadata={"user_id": "u"}
    )
    assert message.content[0].text == TEXT
    assert message.stop_reason == "end_turn"
    assert message.id == f"msg_{worker.jobs[0].id}"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 4)
    work = worker.jobs[0].work
    assert [one["role"] for one in chat_of(worker.jobs[0]).messages] == ["system", "user"]
    assert (work.sampling.max_tokens, work.sampling.top_k, work.sampling.temperature) == (9, 5, 0)
    assert ask(client, max_tokens=2).stop_reason == "max_tokens"


def test_a_stream(fleet: Fleet, client: anthropic.Anthropic) -> None:
    fleet.worker()
    with client.messages.stream(model="tiny", messages=HELLO, max_tokens=9) as stream:
        events = [event.type for event in stream]
        final: Any = stream.get_final_message()
    assert final.content[0].text == TEXT
    assert final.usage.output_tokens == 4
    assert final.stop_reason == "end_turn"
    raw = [event.type for event in ask(client, stream=True)]
    assert raw[:2] == ["message_start", "content_block_start"]
    assert raw[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(raw) <= set(events)
    first = next(iter(ask(client, stream=True)))
    assert first.message.usage.input_tokens == 3


def test_stop_sequences(fleet: Fleet, client: anthropic.Anthropic) -> None:
    def script(job: Job) -> Script:
        assert job.work.sampling.stop == ("END",)
        yield Tokens(job.id, 0, (1,), "a", prompt_tokens=3)
        yield Finished(job.id, 1, FinishReason.STOP, Usage(3, 1), stop="END")

    fleet.worker(script)
    message = ask(client, stop_sequences=["END"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_prefill_and_neighbours(fleet: Fleet, client: anthropic.Anthropic) -> None:
    worker = fleet.worker()
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
              {"type": "text", "text": "b"}]  # fmt: skip
    ask(
        client,
        messages=[
            {"role": "user", "content": blocks},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "I say"},
        ],
    )
    prompt = chat_of(worker.jobs[0])
    assert [(one["role"], one["content"]) for one in prompt.messages] == [
        ("user", "a\nb\nc"), ("assistant", "I say"),
    ]  # fmt: skip
    assert prompt.continue_final_message
    assert not prompt.add_generation_prompt


CALL = ("I look. ", "<tool_call>\n", '{"name": "weather", "arguments": {"city": "Bonn"}}',
        "\n</tool_call>")  # fmt: skip


def test_tools(fleet: Fleet, client: anthropic.Anthropic) -> None:
    worker = fleet.worker(says(*CALL), **HERMES)
    message = ask(client, tools=[WEATHER])
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.stop_reason == "tool_use"
    assert message.content[1].input == {"city": "Bonn"}
    assert chat_of(worker.jobs[0]).tools[0]["function"]["name"] == "weather"
    with client.messages.stream(
        model="tiny", messages=HELLO, max_tokens=9, tools=[WEATHER]
    ) as stream:
        streamed: Any = stream.get_final_message()
    assert [block.type for block in streamed.content] == ["text", "tool_use"]
    assert streamed.content[1].input == {"city": "Bonn"}
    ask(
        client,
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        messages=[
            *HELLO,
            {"role": "assistant", "content": message.model_dump()["content"]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": message.content[1].id, "content": "rain"},
                {"type": "text", "text": "and now?"},
            ]},
        ],
    )  # fmt: skip
    work = worker.jobs[-1].work
    messages = chat_of(worker.jobs[-1]).messages
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "user"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]
    assert messages[2]["content"] == "rain"
    assert isinstance(work.sampling.structure, ToolStructure)
    assert not work.sampling.structure.parallel


def test_thinking(fleet: Fleet, client: anthropic.Anthropic) -> None:
    worker = fleet.worker(says("<think>hm", "</think>", "so"), reasoning=("<think>", "</think>"))
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    message = ask(client, thinking=thinking, max_tokens=2000)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "hm"
    assert chat_of(worker.jobs[0]).template_kwargs == {"enable_thinking": True}
    with client.messages.stream(
        model="tiny", messages=HELLO, max_tokens=2000, thinking=thinking
    ) as stream:
        assert [block.type for block in stream.get_final_message().content] == ["thinking", "text"]
    plain = ask(client)
    assert [block.type for block in plain.content] == ["text"]
    assert plain.usage.cache_read_input_tokens == 1
    assert plain.usage.input_tokens == 2


def test_counting(fleet: Fleet, client: anthropic.Anthropic, clerk: Clerk) -> None:
    fleet.worker()
    counted = client.messages.count_tokens(model="tiny", messages=HELLO, system="s")
    assert counted.input_tokens == len("system:s\nuser:hello\nassistant:")


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "none"}, anthropic.NotFoundError, "model"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, anthropic.BadRequestError,
         "messages"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, anthropic.BadRequestError,
         "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
         anthropic.BadRequestError, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
         anthropic.BadRequestError, "messages[0].content[0].tool_use_id"),
        ({"tools": [WEATHER]}, anthropic.BadRequestError, "tools"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, anthropic.BadRequestError,
         "tools"),
        ({"temperature": 1.5}, anthropic.BadRequestError, "temperature"),
    ],
)  # fmt: skip
def test_bad_requests(
    fleet: Fleet, client: anthropic.Anthropic, fields: Any, error: Any, param: str
) -> None:
    fleet.worker()
    with pytest.raises(error) as caught:
        ask(client, **fields)
    body = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["param"] == param
    assert caught.value.request_id == body["request_id"]


def test_keys_and_failures(fleet: Fleet) -> None:
    def script(job: Job) -> Script:
        if job.work.sampling.max_tokens == 1:
            yield Failed(job.id, 0, "context_length_exceeded", "too long")
        yield Tokens(job.id, 0, (1,), "a", prompt_tokens=3)
        yield Failed(job.id, 1, "engine_failed", "it broke")

    server = fleet.api(api_keys=("sesame",))
    fleet.worker(script)
    with (
        anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        ask(stranger)
    with anthropic.Anthropic(base_url=server.url, api_key="sesame", max_retries=0) as client:
        for stream in (False, True):
            with pytest.raises(anthropic.BadRequestError, match="too long"):
                ask(client, max_tokens=1, stream=stream)
        with pytest.raises(anthropic.InternalServerError):
            ask(client)
        with pytest.raises(anthropic.APIStatusError, match="it broke"):
            list(ask(client, stream=True))


def test_a_client_that_goes(fleet: Fleet, client: anthropic.Anthropic) -> None:
    worker = fleet.worker(drone)
    with client.messages.stream(model="tiny", messages=HELLO, max_tokens=400) as stream:
        next(iter(stream.text_stream))
    wait_until(lambda: "cancelled" in worker.dropped.values())


def test_pings_while_waiting(fleet: Fleet) -> None:
    def late(job: Job) -> Script:
        for _ in range(200):
            yield None
        yield from speak(job)

    server = fleet.api(keepalive_s=0.1)
    fleet.worker(late)
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 9, "stream": True}
    text = httpx.post(f"{server.url}/v1/messages", json=body, timeout=20.0).text
    assert text.startswith("event: message_start\n")
    assert text.index("event: ping\n") < text.index("event: content_block_start\n")
    assert text.count("message_start") == 2  # the event's name, and its type
