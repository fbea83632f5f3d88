"""The order of a response's events, and what items become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.http.warnings import Warnings
from api.openai.responses.events import ResponseBuilder, finished
from api.openai.responses.input_items import blamed, chat_body, items_of
from api.openai.responses.record import Ending, Piece, Pieces, StoredResponse
from api.openai.responses.schema import ResponseRequest
from penstock.contract.events import (
    Event,
    Finished,
    FinishReason,
    PositionLogprobs,
    TokenLogprob,
    Tokens,
    Usage,
)
from penstock.errors import InvalidParameter, PenstockError, UnsupportedFeature

EVENT: Any = TypeAdapter(ResponseStreamEvent)
SHOWN = {"model": "tiny", "parallel_tool_calls": True, "tools": [], "tool_choice": "auto"}


def stored(**fields: Any) -> StoredResponse:
    return StoredResponse(
        **{
            "id": "resp_1", "tenant": "t", "job_id": "ab", "created_s": 7,
            "asked": SHOWN, "input": (), **fields,
        }
    )  # fmt: skip


def ending(status: str = "completed", *pieces: str) -> Ending:
    return Ending(status, 9, tuple(Piece(text, 1) for text in pieces), Usage(3, 2, 1))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    for event in events:
        EVENT.validate_python(event)  # as the official SDK reads it
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return [event["type"].removeprefix("response.") for event in events]


def test_text() -> None:
    builder, events = finished(stored(), ending("completed", "once ", "upon"))
    assert kinds(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    response = Response.model_validate(builder.response())
    assert response.output_text == "once upon"
    assert response.usage is not None
    assert response.usage.total_tokens == 5
    assert response.usage.input_tokens_details.cached_tokens == 1
    assert events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == []


def test_background_is_queued_until_something_comes() -> None:
    builder = ResponseBuilder(stored(background=True))
    assert kinds(builder.begin()) == ["created", "queued"]
    assert builder.response()["status"] == "queued"
    assert builder.piece(Piece("a"))[0]["type"] == "response.in_progress"
    assert builder.response()["status"] == "in_progress"


@pytest.mark.parametrize(
    ("status", "last", "details"),
    [
        ("incomplete", "incomplete", {"reason": "max_output_tokens"}),
        ("failed", "failed", None),
        ("cancelled", "failed", None),
    ],
)
def test_other_ends(status: str, last: str, details: Any) -> None:
    ended = Ending(status, 9, (Piece("a"),), error_code="engine_failed", error_message="no")
    builder, events = finished(stored(), ended)
    assert kinds(events)[-1] == last
    response = builder.response()
    assert response["status"] == status
    assert response["incomplete_details"] == details
    assert (response["error"] is not None) == (status == "failed")
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None


def test_an_empty_answer_is_a_message() -> None:
    builder, events = finished(stored(), ending())
    assert "output_item.done" in kinds(events)
    assert builder.output()[0]["content"][0]["text"] == ""
    assert finished(stored(), Ending("failed", 9, error_code="x"))[0].output() == []


READER = {
    "reasoning": ["<think>", "</think>"], "format_name": "hermes", "functions": ["f", "g"],
}  # fmt: skip
PIECES = (
    "<think>hm", "</think>", "a", "b",
    '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
)  # fmt: skip


def test_reasoning_words_and_calls() -> None:
    builder, events = finished(stored(reader=READER), ending("completed", *PIECES))
    names = [name for name in kinds(events) if not name.endswith("delta")]
    assert names == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    output: list[Any] = list(Response.model_validate(builder.response()).output)
    assert [item.type for item in output] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    assert json.loads(output[2].arguments) == {"x": 1}
    assert output[3].name == "g"
    assert output[2].call_id != output[3].call_id
    assert len({item.id for item in output}) == 4
    deltas = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert "".join(deltas) == output[2].arguments + output[3].arguments
    # Written again, it is the same; the markers are reasoning's tokens.
    assert builder.response()["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert finished(stored(reader=READER), ending("completed", *PIECES))[1] == events


def position(text: str, token_id: int = 1) -> PositionLogprobs:
    chosen = TokenLogprob(token_id, text, -0.5)
    return PositionLogprobs(chosen, (chosen, TokenLogprob(9, "other", -1.5)))


def tokens(index: int, text: str, said: str = "") -> Tokens:
    return Tokens("ab", index, (1,), text, (position(said or text),))


def test_log_probabilities_are_the_messages_own() -> None:
    request = stored(
        reader={"reasoning": ["<think>", "</think>"], "format_name": "hermes", "functions": ["f"]},
        hidden_token_ids=frozenset({2}),
    )
    events: list[Event] = [
        tokens(0, "<think>"),
        tokens(1, "hm"),
        tokens(2, "</think>"),
        tokens(3, "a "),
        tokens(4, "", "\ufffd"),  # half a character
        tokens(5, "\u00e9", "\ufffd"),
        tokens(6, "<", "<"),  # may begin a call
        tokens(7, "b"),
        tokens(8, "", "."),  # might have begun a stop string
        Tokens("ab", 9, (2,), "", (position("<eos>", 2),)),
        Finished("ab", 10, FinishReason.STOP, Usage(3, 10), text="."),
    ]
    pieces = Pieces(request).add_all(events)
    assert sum(piece.tokens for piece in pieces) == 10
    builder, made = finished(request, Ending("completed", 9, tuple(pieces), Usage(3, 10)))
    kinds(made)
    response: Any = Response.model_validate(builder.response())
    [_, message] = response.output
    [part] = message.content
    assert part.text == "a \u00e9<b."
    said = [one.token for one in part.logprobs]
    assert said == ["a ", "\ufffd", "\ufffd", "<", "b", "."]
    assert [one.token for one in part.logprobs[0].top_logprobs] == ["a ", "other"]
    assert part.logprobs[0].logprob == -0.5
    assert response.usage.output_tokens_details.reasoning_tokens == 3
    streamed = [
        one["token"]
        for event in made
        if event["type"] == "response.output_text.delta"
        for one in event["logprobs"]
    ]
    assert streamed == said
    [done] = [event for event in made if event["type"] == "response.output_text.done"]
    assert [one["token"] for one in done["logprobs"]] == said


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, 2),
    ],
)
def test_who_gets_log_probabilities(fields: dict[str, Any], wanted: int | None) -> None:
    request = asked(**fields)
    chat, _ = translated(request)
    assert chat.get("top_logprobs") == wanted
    assert chat.get("logprobs", False) is (wanted is not None)


# -- input


def asked(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate({"model": "m", "input": "hi", **fields})


def translated(request: ResponseRequest) -> tuple[dict[str, Any], Warnings]:
    warnings = Warnings()
    items = items_of(request, "resp_1")
    return chat_body(request, request.model_dump(), (), items, warnings)[0], warnings


def messages(**fields: Any) -> list[dict[str, Any]]:
    return translated(asked(**fields))[0]["messages"]


def test_a_text_is_a_users_message() -> None:
    assert messages(instructions="be brief") == [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    [item] = items_of(asked(), "resp_1")
    assert item["id"].startswith("msg_")
    assert items_of(asked(), "resp_1") == [item]
    assert items_of(asked(), "resp_2") != [item]


def test_items() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    found = messages(
        input=[
            {"role": "user", "content": "what time"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                {"type": "reasoning_text", "text": "hm"}]},
            call,
            {**call, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "noon"},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "noon", "annotations": []}]},
        ]
    )  # fmt: skip
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "assistant"]
    assert [one["id"] for one in found[1]["tool_calls"]] == ["c1", "c2"]
    assert found[1]["reasoning_content"] == "hm"
    assert found[2] == {"role": "tool", "tool_call_id": "c1", "content": "noon"}


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"input": []}, InvalidParameter, "input"),
        ({"input": [{"content": "x"}]}, InvalidParameter, "input[0].type"),
        ({"input": [{"role": "user"}]}, InvalidParameter, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         UnsupportedFeature, "input[0].content[0]"),
    ],
)  # fmt: skip
def test_bad_input(fields: dict[str, Any], error: type[PenstockError], param: str) -> None:
    with pytest.raises(error) as caught:
        messages(**fields)
    assert caught.value.param == param


def test_options_of_a_chat() -> None:
    request = asked(
        tools=[{"type": "function", "name": "f", "parameters": {}}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "s", "schema": {}, "strict": True}},
        reasoning={"effort": "low"},
        max_output_tokens=5,
        temperature=0.5,
    )
    chat, _ = translated(request)
    assert chat["tools"][0]["function"]["name"] == "f"
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert chat["response_format"]["json_schema"]["name"] == "s"
    assert chat["reasoning_effort"] == "low"
    assert chat["max_completion_tokens"] == 5
    assert chat["temperature"] == 0.5


@pytest.mark.parametrize(
    ("chat", "own"),
    [(None, None), ("messages[2].content", "input"), ("tools[0]", "tools[0]"),
     ("max_completion_tokens", "max_output_tokens"),
     ("response_format.json_schema", "text.format.json_schema")],
)  # fmt: skip
def test_blame(chat: str | None, own: str | None) -> None:
    assert blamed(chat) == own
