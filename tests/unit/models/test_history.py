"""Calls and results of a conversation, as templates of several kinds take them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.models.text import template_process
from penstock.models.text.history import History

CALLS = "{%- for call in message.tool_calls or [] %}<call>{{ call.function.name }} BODY</call>{% endfor %}"
EACH = (
    "{%- for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{%- for message in messages %}<{{ message.role }}>{{ message.content }}"
    + CALLS
    + "{% endfor %}"
)

AS_OBJECT = EACH.replace("BODY", "{{ call.function.arguments | tojson }}")
AS_ITEMS = EACH.replace(
    "BODY", "{% for k, v in call.function.arguments.items() %}{{ k }}: {{ v }}{% endfor %}"
)
AS_TEXT = EACH.replace("BODY", "{{ '(' + call.function.arguments + ')' }}")
AS_IT_IS = EACH.replace("BODY", "{{ call.function.arguments }}")
BOTH = EACH.replace(
    "BODY",
    "{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}",
)
ONE = AS_OBJECT.replace(
    "{%- for message in messages %}",
    "{%- for message in messages %}{% if (message.tool_calls or []) | length > 1 %}{{ raise_exception('one call a message') }}{% endif %}",
)
FIRST = AS_OBJECT.replace("message.tool_calls or []", "(message.tool_calls or [])[:1]")
NONE = "{%- for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def history(template: str, dialect: Any = "hermes") -> History:
    def render(messages, tools) -> str | None:
        try:
            return template_process.render(
                template, list(messages), {"tools": tools}, continues=False
            )
        except Exception:  # noqa: BLE001 - whatever a template raises
            return None

    return History.of(dialect, render)


def call(name: str, arguments: Any, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **more}


def result(call_id: str, content: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize(
    ("template", "as_text", "one_call"),
    [
        (AS_OBJECT, False, False),
        (AS_ITEMS, False, False),
        (AS_TEXT, True, False),
        (AS_IT_IS, True, False),
        (BOTH, False, False),
        (ONE, False, True),
        (FIRST, False, True),
        ("{{ nothing.at.all }}", False, False),
    ],
)
def test_a_template_shows_how_it_takes_calls(template: str, as_text: bool, one_call: bool) -> None:
    assert history(template) == History(as_text=as_text, one_call=one_call)


@pytest.mark.parametrize("template", [AS_OBJECT, AS_ITEMS, AS_TEXT, AS_IT_IS, BOTH])
def test_arguments_come_as_json_or_values_and_never_as_pythons(template: str) -> None:
    arguments = {"city": "Zürich", "days": [1, True]}
    [message] = history(template).prepared([said(call("f", arguments))])
    text = template_process.render(template, [message], {}, continues=False)
    assert json.dumps(arguments, ensure_ascii=False) in text or "city: Zürich" in text
    assert "'city'" not in text


def test_a_template_that_leaves_calls_out_gets_them_as_content() -> None:
    """Granite's and Phi-4-mini's do: the model would not see what it has called."""
    form = history(NONE, "granite")
    assert form == History(as_content="granite")
    calls = said(call("f", {"a": "ü"}), call("g", {}, "call_2"), content="I look.")
    [message] = form.prepared([calls])
    assert message["content"] == (
        'I look.<|tool_call|>[{"name": "f", "arguments": {"a": "ü"}}, {"name": "g", "arguments": {}}]'
    )


def test_several_calls_become_messages_with_their_results_behind_each() -> None:
    form = History(one_call=True)
    a, b, c = (call("f", {}, name) for name in "abc")
    asked = {"role": "user", "content": "?"}
    messages = [asked, said(a, b, c, reasoning_content="so"), result("b"), result("a"), asked]
    prepared = form.prepared(messages)
    assert [
        one.get("tool_call_id") or [call["id"] for call in one.get("tool_calls", [])] or one["role"]
        for one in prepared
    ] == ["user", ["a"], "a", ["b"], "b", ["c"], "user"]
    assert prepared[1]["reasoning_content"] == "so"
    assert "reasoning_content" not in prepared[3]
    in_order = form.prepared([said(a, b), result("a"), result("b")])
    assert [one["role"] for one in in_order] == ["assistant", "tool", "assistant", "tool"]


def test_results_come_in_the_order_of_their_calls() -> None:
    a, b = (call("f", {}, name) for name in "ab")
    messages = [said(a, b), result("x"), result("b"), result("a"), result("b", "2"), said(a)]
    prepared = History().prepared(messages)
    assert [one.get("tool_call_id", "-") for one in prepared] == ["-", "a", "b", "b", "x", "-"]
    assert [one.get("content") for one in prepared[2:4]] == ["1", "2"]


def test_kimis_ids_count_the_calls_of_the_conversation() -> None:
    form = History(ids="kimi_k2")
    messages = [said(call("f", {}, "call_x"), call("g", {}, "call_y")), result("call_y"),
                result("call_x"), said(call("f", {}, "call_z"))]  # fmt: skip
    prepared = form.prepared(messages)
    ids = [[one["id"] for one in message.get("tool_calls", [])] for message in prepared]
    assert ids == [["functions.f:0", "functions.g:1"], [], [], ["functions.f:2"]]
    assert [prepared[1]["tool_call_id"], prepared[2]["tool_call_id"]] == [
        "functions.f:0", "functions.g:1",
    ]  # fmt: skip


def test_mistrals_ids_are_nine_letters_and_digits() -> None:
    form = History(ids="mistral")
    kept, made = form.prepared([said(call("f", {}, "aB3dE6gH9"), call("f", {}, "toolu_01"))])[0][
        "tool_calls"
    ]
    assert kept["id"] == "aB3dE6gH9"
    assert made["id"].isalnum()
    assert len(made["id"]) == 9
    [answered] = form.prepared([result("toolu_02")])
    assert answered["tool_call_id"] == "toolu_02"  # of no call: nothing is known of it
    both = form.prepared([said(call("f", {}, "toolu_01")), result("toolu_01")])
    assert both[1]["tool_call_id"] == both[0]["tool_calls"][0]["id"]


def test_harmony_takes_a_call_with_content_or_reasoning_not_both() -> None:
    form = History(joins_thoughts=True)
    [message] = form.prepared([said(call("f", {}), content="I look.", reasoning_content="So.")])
    assert (message["content"], message["reasoning_content"]) == ("", "So.\n\nI look.")
    plain = {"role": "assistant", "content": "Yes.", "reasoning_content": "So."}
    assert form.prepared([plain]) == [plain]
