"""Items and tools of /v1/responses that other servers and programs make -> a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.http.warnings import Warnings
from api.openai.chat_images import IMAGE_LEFT_OUT
from api.openai.responses.input_items import chat_body, items_of
from api.openai.responses.item_kinds import CALLS, LEFT_OUT, OUTPUTS
from api.openai.responses.schema import ResponseRequest

FUNCTION = {"type": "function", "name": "f", "parameters": {}}
PATCH = {
    "type": "custom", "name": "apply_patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'},
}  # fmt: skip


def translated(**fields: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the chat, its namespaces, and the warnings."""
    asked = ResponseRequest.model_validate({"model": "m", "input": "hi", **fields})
    warnings = Warnings()
    items = items_of(asked, "resp_1")
    chat, namespaces = chat_body(asked, asked.model_dump(), (), items, warnings)
    return chat, namespaces, warnings.texts


def test_functions_and_custom_tools_are_served_and_others_left_out() -> None:
    chat, _, warnings = translated(tools=[FUNCTION, PATCH, {"type": "web_search"}])
    assert [tool["type"] for tool in chat["tools"]] == ["function", "custom"]
    custom = chat["tools"][1]["custom"]
    assert custom["format"]["grammar"] == {"syntax": "lark", "definition": 'start: "a"'}
    assert warnings == ["tools of type 'web_search' are not run by this server, left out"]


def test_a_namespaces_functions_have_both_names() -> None:
    inner = [FUNCTION, {"type": "custom", "name": "exec"}, {"type": "shell"}]
    tools = [
        {"type": "namespace", "name": "mcp__x", "tools": inner},
        {"type": "namespace", "name": "mcp__y__", "tools": [FUNCTION]},
    ]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    chat, namespaces, warnings = translated(
        tools=tools, input=[{**call, "namespace": "mcp__x"}],
        tool_choice={"type": "function", "name": "f", "namespace": "mcp__x"},
    )  # fmt: skip
    assert namespaces == {
        "mcp__x__f": ("mcp__x", "f"), "mcp__x__exec": ("mcp__x", "exec"),
        "mcp__y__f": ("mcp__y__", "f"),
    }  # fmt: skip
    assert chat["messages"][0]["tool_calls"][0]["function"]["name"] == "mcp__x__f"
    assert chat["tool_choice"]["function"]["name"] == "mcp__x__f"
    assert len(warnings) == 1
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [tools[0], {"type": "mcp"}]}
    chat, _, warnings = translated(tools=tools, tool_choice=allowed)
    names = [tool[tool["type"]]["name"] for tool in chat["tool_choice"]["allowed_tools"]["tools"]]
    assert names == ["mcp__x__f", "mcp__x__exec"]
    assert "tools of type 'mcp' are not run by this server, left out" in warnings


@pytest.mark.parametrize("choice", ["required", {"type": "web_search"}, {"type": "mcp"}])
def test_a_choice_of_what_was_left_out_goes_with_it(choice: Any) -> None:
    chat, _, warnings = translated(tools=[{"type": "web_search"}], tool_choice=choice)
    assert "tool_choice" not in chat
    assert "tools" not in chat
    assert warnings[-1] == "tool_choice asks for a tool that was left out, ignored"


def test_tools_that_a_history_brings() -> None:
    found = {"type": "tool_search_output", "tools": [{**FUNCTION, "description": "newer"}]}
    more = {"type": "additional_tools", "role": "developer", "tools": [PATCH, FUNCTION]}
    chat, _, _ = translated(tools=[FUNCTION], input=[more, found, {"role": "user", "content": "x"}])
    assert [tool[tool["type"]]["name"] for tool in chat["tools"]] == ["f", "apply_patch"]
    assert chat["tools"][0]["function"]["description"] == "newer"
    assert chat["messages"] == [{"role": "user", "content": [{"type": "text", "text": "x"}]}]


def test_calls_of_custom_tools_and_their_outputs() -> None:
    image = {"type": "input_image", "image_url": "data:"}
    chat, _, warnings = translated(
        input=[
            {"role": "user", "content": "go"},
            {"type": "reasoning", "summary": [], "encrypted_content": "zzz"},
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "a\n"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": [
                {"type": "input_text", "text": "done"}, image, {"type": "input_file"}]},
        ]
    )  # fmt: skip
    _, called, output = chat["messages"]
    assert called["tool_calls"] == [
        {"id": "c1", "type": "custom", "custom": {"name": "apply_patch", "input": "a\n"}}
    ]
    assert output["role"] == "tool"
    words, picture, file = output["content"]
    assert words["text"] == "done"
    assert picture == {"type": "image_url", "image_url": {"url": "data:"}}
    assert file["text"].startswith("[A file")
    assert len(warnings) == 1


@pytest.mark.parametrize("kind", sorted([*LEFT_OUT, "of_tomorrow"]))
def test_items_that_are_left_out(kind: str) -> None:
    chat, _, warnings = translated(
        input=[{"type": kind, "id": "x"}, {"role": "user", "content": "x"}]
    )
    assert len(chat["messages"]) == 1
    assert warnings == [f"items of type {kind!r} are left out"]


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_calls_of_tools_that_the_client_ran(kind: str) -> None:
    name, member = CALLS[kind]
    output = {"text": "out"} if kind != "computer_call" else {"type": "computer_screenshot"}
    chat, _, _ = translated(
        input=[
            {"type": kind, "call_id": "c", member: {"command": ["ls"]}},
            {"type": f"{kind}_output", "call_id": "c", "output": [output]},
        ]
    )
    called, result = chat["messages"]
    assert f"{kind}_output" in OUTPUTS
    assert called["tool_calls"][0]["function"]["name"] == name
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"command": ["ls"]}
    assert result["content"] == (IMAGE_LEFT_OUT if kind == "computer_call" else "out")


def test_system_messages_at_any_place() -> None:
    chat, _, _ = translated(
        instructions="one",
        input=[
            {"role": "developer", "content": "two"},
            {"role": "user", "content": "hi"},
            {"role": "system", "content": [{"type": "input_text", "text": "three"}]},
            {"role": "user", "content": "you"},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "yes"}, {"type": "of_tomorrow"}]},
        ],
    )  # fmt: skip
    texts = [
        (message["role"], [part["text"] for part in message["content"]])
        for message in chat["messages"]
    ]
    assert texts == [
        ("system", ["one", "two"]),
        ("user", ["hi", "<system>\nthree\n</system>", "you"]),
        ("assistant", ["yes"]),
    ]
