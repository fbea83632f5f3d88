"""Events -> the chunks of a stream, checked against what OpenAI's own SDK makes of them."""

from __future__ import annotations

import json
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from api.http.resumption import SeenEvent
from api.jobs.event_ids import EventIds
from api.openai.chat.answer_readings import ReadChunkWriter
from api.openai.chat.answers import Heading
from api.openai.chat.chunks import CHAT, COMPLETION, ChunkWriter
from api.openai.chat.logprobs import CompletionLogprobs
from api.openai.chat.tools import Reading
from penstock.contract.events import (
    Finished,
    FinishReason,
    PositionLogprobs,
    TokenLogprob,
    Tokens,
    Usage,
)

HEADING = Heading("chatcmpl-1", 'a "model"\n', "fp_x", created_s=5)


def writer(shape: Any = CHAT, **options: Any) -> ChunkWriter:
    return ChunkWriter(
        shape, HEADING, **{"positions": 1, "choices": 1, "include_usage": False, **options}
    )


def chunks(frames: bytes) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in frames.decode().splitlines()
        if line.startswith("data: {")
    ]


def ids(frames: bytes) -> list[str]:
    return [line for line in frames.decode().splitlines() if line.startswith("id: ")]


def finished(index: int = 2, text: str = "") -> Finished:
    return Finished("j", index, FinishReason.STOP, Usage(3, index, 1), text=text)


def test_a_plain_stream_is_lines_of_data_alone() -> None:
    stream = writer()
    frames = stream.event(0, Tokens("j", 0, (5,), "a", prompt_tokens=3)) + stream.event(
        0, finished()
    )
    frames += stream.end()
    assert all(line.startswith("data: ") for line in frames.decode().split("\n") if line)
    assert frames.endswith(b"\n\ndata: [DONE]\n\n")


def test_chat_stream() -> None:
    event_ids = EventIds(SeenEvent())
    stream = writer(ids=event_ids)
    frames = b""
    for event in (
        Tokens("j", 0, (5,), 'h"é\u2028\x85', prompt_tokens=3),
        Tokens("j", 1, (6,), "!"),
        finished(text="tail"),
    ):
        assert event_ids.is_new(event)
        frames += stream.event(0, event)
    frames += stream.end()
    made = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks(frames)]
    assert made[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.content for c in made] == ["", 'h"é\u2028\x85', "!", "tail"]
    assert [c.choices[0].finish_reason for c in made] == [None, None, None, "stop"]
    assert {c.model for c in made} == {'a "model"\n'}
    assert {c.id for c in made} == {"chatcmpl-1"}
    assert all("usage" not in chunk for chunk in chunks(frames))
    assert ids(frames) == ["id: 0-169a2f2e", "id: 1-08a98ed1", "id: 2-08a98ed1"]
    assert frames.endswith(b"\n\ndata: [DONE]\n\n")
    assert frames.decode().count("\n\n") == len(made) + 1


def test_usage_comes_last_and_is_null_before() -> None:
    stream = writer(include_usage=True)
    frames = stream.event(0, Tokens("j", 0, (5,), "a")) + stream.event(0, finished())
    *content, last = chunks(frames + stream.end())
    assert all(chunk["usage"] is None for chunk in content)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_token_without_text_is_no_chunk() -> None:
    stream = writer()
    opening = stream.event(0, Tokens("j", 0, (5,), ""))
    assert [chunk["choices"][0]["delta"]["role"] for chunk in chunks(opening)] == ["assistant"]
    assert stream.event(0, Tokens("j", 1, (5,), "")) == b""


def test_choices_of_several_jobs_keep_apart() -> None:
    stream = writer(positions=2, choices=2, include_usage=True)
    frames = stream.event(1, Tokens("b", 0, (1,), "B"))
    frames += stream.event(0, Tokens("a", 0, (1,), "A"))
    frames += stream.event(0, finished()) + stream.event(1, finished(3))
    frames += stream.end()
    *content, last = chunks(frames)
    seen = [(c["choices"][0]["index"], c["choices"][0]["delta"].get("content")) for c in content]
    assert seen == [(0, ""), (1, ""), (1, "B"), (0, "A"), (0, None), (1, None)]
    assert last["usage"]["prompt_tokens"] == 3, "one prompt, counted once"
    assert last["usage"]["completion_tokens"] == 5
    assert ids(frames) == []


def test_choice_0_is_opened_first_whichever_speaks_first() -> None:
    stream = writer(positions=3, choices=3)
    opened = chunks(stream.event(1, Tokens("j", 0, (5,), "b")))
    assert [c["choices"][0]["index"] for c in opened] == [0, 1, 1]
    assert [c["choices"][0]["delta"].get("role") for c in opened] == [*["assistant"] * 2, None]
    (later,) = chunks(stream.event(0, Tokens("j", 0, (5,), "a")))
    assert later["choices"][0]["delta"] == {"content": "a"}
    assert len(chunks(stream.event(2, Tokens("j", 0, (5,), "c")))) == 2


def test_choice_0_is_opened_first_of_answers_that_are_read() -> None:
    reading = Reading(reasoning=("<think>", "</think>"))
    stream = ReadChunkWriter(reading, HEADING, ["a", "b"], include_usage=False)
    opened = chunks(stream.event(1, Tokens("b", 0, (5,), "b")))
    assert [c["choices"][0]["index"] for c in opened] == [0, 1]
    assert [c["choices"][0]["delta"]["role"] for c in opened] == ["assistant", "assistant"]
    (later,) = chunks(stream.event(0, Tokens("a", 0, (5,), "a")))
    assert later["choices"][0]["delta"] == {"content": "a"}


def test_several_prompts_are_each_counted() -> None:
    stream = writer(COMPLETION, positions=4, choices=2, include_usage=True)
    for position in range(4):
        stream.event(position, finished())
    assert chunks(stream.end())[-1]["usage"]["prompt_tokens"] == 6


def top(text: str, logprob: float) -> TokenLogprob:
    return TokenLogprob(1, text, logprob)


def test_completion_stream_with_logprobs() -> None:
    stream = writer(COMPLETION)
    first = PositionLogprobs(top("on", -0.5), (top("on", -0.5), top("off", -1.0)))
    second = PositionLogprobs(top("ce", float("-inf")), (top("x", -0.1),))
    frames = stream.event(0, Tokens("j", 0, (5,), "", logprobs=(first,)))
    frames += stream.event(0, Tokens("j", 1, (6,), "once", logprobs=(second,)))
    frames += stream.event(0, finished())
    made = [Completion.construct(**chunk) for chunk in chunks(frames)]
    assert [c.choices[0].text for c in made] == ["", "once", ""]
    one, two = made[0].choices[0].logprobs, made[1].choices[0].logprobs
    assert one is not None
    assert one.tokens == ["on"]
    assert one.text_offset == [0]
    assert one.top_logprobs == [{"on": -0.5, "off": -1.0}]
    assert two is not None
    assert two.text_offset == [2]
    assert two.top_logprobs == [{"x": -0.1, "ce": -9999.0}]
    assert two.token_logprobs == [-9999.0]


def test_chat_logprobs() -> None:
    stream = writer()
    part = TokenLogprob(2, "\ufffd", -0.7, b"\xc3")
    position = PositionLogprobs(top("é", -0.5), (part,))
    frames = stream.event(0, Tokens("j", 0, (5,), "é", logprobs=(position,)))
    made = ChatCompletionChunk.model_validate(chunks(frames)[1]).choices[0].logprobs
    assert made is not None
    assert made.content is not None
    assert made.content[0].token == "é"
    assert made.content[0].bytes == [195, 169]
    assert made.content[0].top_logprobs[0].bytes == [195]


def test_parts_of_characters_are_distinguished() -> None:
    half = TokenLogprob(2, "\ufffd", -0.7, b"\xc3")
    other = TokenLogprob(3, "\ufffd", -0.2, b"\xe4\xbd")
    position = PositionLogprobs(half, (other, half))
    shown = CompletionLogprobs()((position,))
    assert shown["tokens"] == ["bytes:\\xc3"]
    assert shown["top_logprobs"] == [{"bytes:\\xe4\\xbd": -0.2, "bytes:\\xc3": -0.7}]
    assert shown["text_offset"] == [0]
