"""Dialects that write values without quotes, or as Python: the schema says what they are."""

from __future__ import annotations

import json

import pytest

from api.parsing.deltas import Call
from tests.unit.api.parsing.cuts import read
from tests.unit.api.parsing.written import glm, invoked, written, xml

TEXT = 'Zürich 🙂\n  "x" \\n <b>1 & 2</b>'
ARGUMENTS = {
    "city": TEXT,
    "days": 3,
    "metric": True,
    "places": [{"a": [1, {}]}, {}],
    "note": None,
}


BLOCK = "<minimax:tool_call>\n{}</minimax:tool_call>"
DSML = "<｜DSML｜function_calls>\n{}</｜DSML｜function_calls>"
ONE = ("get_weather", ARGUMENTS)
OTHER = ("now", {})

NAMES = (
    "qwen3_coder", "seed_oss", "glm45", "glm45, one line", "minimax_m2", "deepseek_v32", "pythonic",
    "gemma3", "gemma3, list", "lfm2", "gemma4", "functiongemma",
)  # fmt: skip
TWO = {name: written(name, (ONE, OTHER)) for name in NAMES}
ANYWHERE = [name for name in TWO if name not in ("pythonic", "gemma3, list")]


def check(name: str, text: str, content: str) -> None:
    message = read(name.partition(",")[0], text)
    assert [(call.name, json.loads(call.arguments)) for call in message.calls] == [ONE, OTHER]
    assert message.content == content


@pytest.mark.parametrize("name", TWO)
def test_two_calls(name: str) -> None:
    check(name, TWO[name], "")


@pytest.mark.parametrize("name", ANYWHERE)
def test_text_before_and_after_calls(name: str) -> None:
    text = f"Let me see [1] <b> {{x}}.\n\n{TWO[name]}\n\nDone.\n- a"
    check(name, text, "Let me see [1] <b> {x}.\n\nDone.\n- a")


@pytest.mark.parametrize("name", TWO)
def test_text_behind_calls_keeps_its_white_space(name: str) -> None:
    check(name, f"\n{TWO[name]}\n\nDone.\n\nSecond:\n- a", "\n\nDone.\n\nSecond:\n- a")


@pytest.mark.parametrize("name", TWO)
def test_text_of_no_call_is_content(name: str) -> None:
    for text in ('Plain [text], {with: "brackets"}.\n', "[1] now(x)", " \n", "<tool_", "```\nx```"):
        message = read(name.partition(",")[0], text)
        assert (message.content, message.calls) == (text, [])


MALFORMED = [
    ("qwen3_coder", "<tool_call>\n<function=f\n</function>\n</tool_call>"),
    ("qwen3_coder", "<function=nobody>\n</function> a"),
    ("qwen3_coder", "<tool_call> <tool_call>"),
    ("seed_oss", "<seed:tool_call>none</seed:tool_call>"),
    ("glm45", "<tool_call><arg_key>x</arg_key></tool_call>"),
    ("glm45", "<tool_call>now please</tool_call>"),
    ("minimax_m2", "<minimax:tool_call>\n<invoke>\n</invoke>\n</minimax:tool_call>"),
    ("deepseek_v32", "<｜DSML｜function_calls>\nnone"),
    ("pythonic", "[nobody(a=1)]"),
    ("pythonic", "[now, 1]"),
    ("pythonic", "[now(=1)]"),
    ("gemma3", "```tool_code\nprint('hi')\n```"),
    ("gemma3", '```json\n{"a": 1}\n```'),
    ("lfm2", "<|tool_call_start|>now()<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>[]<|tool_call_end|>"),
    ("gemma4", "<|tool_call>now{}<tool_call|>"),
    ("gemma4", "<|tool_call>call:now<tool_call|>"),
    ("functiongemma", "<start_function_call>call: now()<end_function_call>"),
]


@pytest.mark.parametrize(("dialect", "text"), MALFORMED)
def test_a_call_that_is_none_is_content_as_it_was_written(dialect: str, text: str) -> None:
    message = read(dialect, text)
    assert (message.content, message.calls) == (text, [])


DAYS = "<tool_call>\n<function=get_weather>\n<parameter=days>\n1\n"
CODE = (
    "def f():\n    return '<parameter=x>\\n</parameter>'\n\n# </function> </invoke> </arg_value>\n"
)


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("qwen3_coder", xml("write-file", {"path": "a.py", "text": CODE})),
        ("glm45", glm("write-file", {"path": "a.py", "text": CODE})),
        ("minimax_m2", BLOCK.format(invoked("write-file", {"path": "a.py", "text": CODE}))),
        ("deepseek_v32",
         DSML.format(invoked("write-file", {"path": "a.py", "text": CODE}, "｜DSML｜"))),
        ("gemma4", written("gemma4", [("write-file", {"path": "a.py", "text": CODE})])),
    ],
)  # fmt: skip
def test_code_that_holds_tags_is_text(dialect: str, text: str) -> None:
    message = read(dialect, text)
    assert [call.name for call in message.calls] == ["write-file"]
    assert json.loads(message.calls[0].arguments) == {"path": "a.py", "text": CODE}
    assert not message.content


@pytest.mark.parametrize("write", [xml, glm])
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("city", "12", "12"),
        ("city", "null", "null"),
        ("city", "", ""),
        ("days", "12", 12),
        ("days", "twelve", "twelve"),
        ("metric", "True", True),
        ("metric", "false", False),
        ("note", "null", None),
        ("note", "12", "12"),
        ("note", "a note", "a note"),
        ("anything", "[1, 2]", [1, 2]),
        ("anything", "plain", "plain"),
        ("unknown", "7", 7),
        ("places", "[{'a': None}, {'b': (True, 'x')}]", [{"a": None}, {"b": [True, "x"]}]),
        ("places", "[{'a': 1}] x", "[{'a': 1}] x"),
        ("places", "[a, b]", "[a, b]"),
        ("city", "['a']", "['a']"),
    ],
)
def test_values_are_what_the_schema_allows(write, key: str, text: str, value: object) -> None:
    dialect = "qwen3_coder" if write is xml else "glm45"
    message = read(dialect, write("get_weather", {key: text}))
    assert json.loads(message.calls[0].arguments) == {key: value}


@pytest.mark.parametrize(
    ("dialect", "text", "content", "arguments"),
    [
        ("qwen3_coder", "<function=now>\n</function>\n</tool_call>", "", {}),
        ("qwen3_coder", '<tool_call>\n<function=get_weather>\n{"days": 1}\n</function>\n</tool_call>',
         "", {"days": 1}),
        ("qwen3_coder", DAYS + "</function>\n</tool_call>", "", {"days": 1}),
        ("qwen3_coder", DAYS + "</parameter>\n</tool_call>", "", {"days": 1}),
        ("qwen3_coder", DAYS + "</parameter>\n</fun", "", {"days": 1}),
        ("qwen3_coder", DAYS + "</parameter>\n<parameter=>\n2\n</parameter>", "\n<parameter=>\n2\n</parameter>", {"days": 1}),
        ("glm45", '<tool_call>{"name": "get_weather", "arguments": {"days": 1}}</tool_call>',
         "", {"days": 1}),
        ("glm45", "<tool_call>now\n</tool_call>", "", {}),
        ("pythonic", "<|python_start|>[get_weather(days=01, note=None)]<|python_end|>", "",
         {"days": 1, "note": None}),
        ("pythonic", '[get_weather("Bern", days=+2.50)]', "", {"city": "Bern", "days": 2.5}),
        ("pythonic", "[get_weather(city='it's 'here' ok')]", "", {"city": "it's 'here' ok"}),
        ("pythonic", "[get_weather(city=\"\"\"a \"b\"\nc\"\"\", note='')]", "",
         {"city": 'a "b"\nc', "note": ""}),
        ("pythonic", "[get_weather(city='\\x41\\u00e9\\'\\q', places=({'a': 'b', 1: (2,)}, {3}))]", "",
         {"city": "Aé'\\q", "places": [{"a": "b", "1": [2]}, [3]]}),
        ("pythonic", "[get_weather(days=1, oops)] text", ", oops)] text", {"days": 1}),
        ("gemma3", "print(get_weather(days=1))", "print(get_weather(days=1))", None),
        ("gemma3", "So:\n```tool_code\nprint(get_weather(days=1))\n```\n", "So:", {"days": 1}),
        ("gemma3", '```json\n{"name": "get_weather", "parameters": {"days": 1}}\n```', "",
         {"days": 1}),
        ("gemma3", '{"name": "get_weather", "parameters": {"days": 1}}', "", {"days": 1}),
        ("gemma4", '<|tool_call>call:get_weather{days: 1, "note": null, places: [ { a : [] } ]}', "", {"days": 1, "note": None, "places": [{"a": []}]}),
        ("lfm2", "<|tool_call_start|>[get_weather(days=1)]<|tool_call_end|>Checking.", "Checking.",
         {"days": 1}),
    ],
)  # fmt: skip
def test_what_models_make_of_it(
    dialect: str, text: str, content: str, arguments: dict | None
) -> None:
    message = read(dialect, text)
    assert message.content == content
    if arguments is None:
        assert not message.calls
    else:
        assert json.loads(message.calls[0].arguments) == arguments


def test_a_text_is_streamed_as_it_comes() -> None:
    message = read("qwen3_coder", xml("write-file", {"text": "a"}).partition("\n</param")[0])
    assert message.calls == [Call("write-file", '{"text": "a')]
