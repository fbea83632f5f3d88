"""Anthropic's request -> a chat: every kind of block and tool, and system messages at any place."""

from __future__ import annotations

from typing import Any

import pytest

from api.anthropic import threads
from api.anthropic.as_chat import chat_body
from api.anthropic.client_tools import CLIENT_TOOLS
from api.anthropic.input_blocks import DOCUMENT, LEFT_OUT
from api.anthropic.route import error_object
from api.anthropic.schema import RULE, MessagesRequest
from api.anthropic.tools import LEFT_OUT as TOOLS_LEFT_OUT
from api.http.warnings import Warnings
from penstock.errors import InvalidParameter, UnsupportedFeature

HELLO: Any = {"role": "user", "content": "hi"}
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object"}}
PICTURE: Any = {
    "type": "image",
    "source": {"type": "base64", "data": "", "media_type": "image/png"},
}


def translated(*messages: Any, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the chat and the warnings."""
    body = {"model": "m", "max_tokens": 5, "messages": list(messages) or [HELLO], **fields}
    warnings = Warnings()
    RULE.apply(body, MessagesRequest.model_fields, warnings)
    chat = chat_body(MessagesRequest.model_validate(body), body, warnings)
    return chat, warnings.texts


def test_system_messages_at_any_place() -> None:
    chat, warnings = translated(
        {"role": "system", "content": "two"},
        HELLO,
        {"role": "system", "content": [{"type": "text", "text": "three"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "system", "content": "four"},
        system=[{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}],
    )
    assert chat["messages"] == [
        {"role": "system", "content": "one\ntwo"},
        {"role": "user", "content": "hi\n<system>\nthree\n</system>"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "<system>\nfour\n</system>"},
    ]
    assert warnings == []


def test_what_tools_return() -> None:
    pdf = {"type": "document", "title": "T", "source": {"type": "base64", "data": ""}}
    text = {"type": "document", "source": {"type": "text", "data": "words"}}
    parts = {"type": "document", "source": {"type": "content", "content": [
        {"type": "text", "text": "a part"}]}}  # fmt: skip
    search = {"type": "search_result", "title": "S", "source": "url", "content": [
        {"type": "text", "text": "found"}]}  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": "c", "content": [
        PICTURE, pdf, text, parts, search, {"type": "tool_reference", "tool_name": "x"},
        {"type": "browser_state"}]}  # fmt: skip
    chat, warnings = translated({"role": "user", "content": [result]})
    [message] = chat["messages"]
    assert message["role"] == "tool"
    picture, words = message["content"]
    assert picture == {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    assert words["text"].split("\n") == [
        "T", DOCUMENT, "words", "a part", "S", "url", "found", "Tool: x",
    ]  # fmt: skip
    assert warnings == [
        "documents in the results of tools are left out",
        "blocks of type 'browser_state' are left out",
    ]


def test_pictures_keep_their_place() -> None:
    texts = [{"type": "text", "text": text} for text in ("see", "and", "this")]
    content = [*texts[:2], PICTURE, texts[2]]
    chat, warnings = translated(HELLO, {"role": "user", "content": content})
    [message] = chat["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "text"]
    assert message["content"][0]["text"] == "hi\nsee\nand"
    assert warnings == []


@pytest.mark.parametrize("source", [{"type": "file"}, {}, None, {"type": "base64", "data": 5}])
def test_pictures_that_are_not_there(source: Any) -> None:
    with pytest.raises((UnsupportedFeature, InvalidParameter)):
        translated({"role": "user", "content": [{"type": "image", "source": source}]})


@pytest.mark.parametrize("block", [{"type": "document", "source": {"type": "url"}}])
def test_a_users_own_document_is_refused(block: Any) -> None:
    with pytest.raises(UnsupportedFeature, match="text only") as caught:
        translated({"role": "user", "content": [{"type": "text", "text": "see"}, block]})
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize("kind", sorted([*LEFT_OUT, "of_tomorrow"]))
def test_blocks_that_are_left_out(kind: str) -> None:
    said = {"role": "assistant", "content": [{"type": kind}, {"type": "text", "text": "a"}]}
    chat, warnings = translated(HELLO, said, HELLO)
    assert chat["messages"][1] == {"role": "assistant", "content": "a"}
    assert warnings == [f"blocks of type {kind!r} are left out"]


def test_reasoning_and_summaries_of_a_history() -> None:
    said = {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "compaction", "content": "so far", "encrypted_content": "x"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
    ]}  # fmt: skip
    chat, warnings = translated(HELLO, said)
    assert chat["messages"][1]["reasoning_content"] == "hm"
    assert chat["messages"][1]["content"] == "so far"
    assert chat["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert warnings == []


@pytest.mark.parametrize("kind", sorted(CLIENT_TOOLS))
def test_tools_that_a_client_runs_are_functions(kind: str) -> None:
    chat, warnings = translated(tools=[{"type": kind, "name": "bash", "display_width_px": 5}])
    [tool] = chat["tools"]
    assert tool["function"]["name"] == "bash"
    assert tool["function"]["parameters"]["properties"]
    assert warnings == []


@pytest.mark.parametrize("kind", sorted([*TOOLS_LEFT_OUT, "of_tomorrow"]))
def test_tools_that_are_left_out(kind: str) -> None:
    tools = [{"type": kind, "name": "search"}, WEATHER]
    chat, warnings = translated(tools=tools, tool_choice={"type": "tool", "name": "search"})
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["weather"]
    assert "tool_choice" not in chat
    assert warnings == [
        f"tools of type {kind!r} are not run by this server, left out",
        "tool_choice asks for a tool that was left out, ignored",
    ]
    chat, _ = translated(tools=tools[:1], tool_choice={"type": "any"})
    assert not {"tools", "tool_choice"} & set(chat)


def test_tools_that_come_and_go() -> None:
    changes = [
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {
            "name": "more", "input_schema": {"type": "object"}}}},
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "weather"}},
        {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "gone"}},
    ]  # fmt: skip
    chat, warnings = translated(
        HELLO, {"role": "system", "content": changes}, tools=[WEATHER, {**WEATHER, "name": "gone"}]
    )
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["weather", "more"]
    assert chat["messages"] == [{"role": "user", "content": "hi"}]
    assert warnings == []


def test_fields_of_others() -> None:
    _, warnings = translated(
        context_management={"edits": []}, mcp_servers=[{"name": "x"}], container="c",
        betas=["x"], cache_control={"type": "ephemeral"}, speed="fast", of_tomorrow=1,
        thinking={"type": "between_tools"}, output_config={"effort": "max", "task_budget": {}},
    )  # fmt: skip
    assert sorted(warnings) == [
        "container: not supported by this server, left out",
        "context_management: not supported by this server, left out",
        "mcp_servers: not supported by this server, left out",
        "of_tomorrow: unknown field, ignored",
    ]


def test_a_thread_that_another_server_holds() -> None:
    threads.check({"thread": None})
    threads.check({"thread": {"type": "create"}})
    with pytest.raises(threads.UnknownThread) as caught:
        threads.check({"thread": {"type": "continue", "previous_message_id": "m"}})
    error = error_object(caught.value, "r")["error"]
    assert (error["param"], error["type"]) == ("thread", "not_found_error")
    assert error["details"] == {"error_code": "thread_not_found"}


def test_thinking_is_requested_by_any_type_but_disabled() -> None:
    for kind, wanted in (("adaptive", True), ("of_tomorrow", True), ("disabled", False)):
        chat, _ = translated(thinking={"type": kind, "display": "omitted"})
        assert chat["chat_template_kwargs"] == {"enable_thinking": wanted}


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([HELLO], {"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ([HELLO], {"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "messages[0].content[0].text"),
        ([{"role": "assistant", "content": [{"type": "tool_use", "id": "c"}]}], {},
         "messages[0].content[0].input"),
    ],
)  # fmt: skip
def test_what_is_not_whole(messages: list[Any], fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        translated(*messages, **fields)
    assert caught.value.param == param
