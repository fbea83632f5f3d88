"""Arguments of a custom tool's call, in pieces -> its input."""

from __future__ import annotations

import json

import pytest

from api.parsing.answer import AnswerParser, functions_of
from api.parsing.custom_inputs import CustomAnswerParser, InputReader
from api.parsing.deltas import CallArguments, CallBegin, Content, Message

TEXT = 'a "b"\n\t\\ \u00e9 \U0001f600 </x> }'


def read(arguments: str, size: int) -> str:
    reader = InputReader("input")
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    return "".join(map(reader.push, pieces)) + reader.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_cut_gives_the_text(size: int, ascii_only: bool) -> None:
    arguments = json.dumps({"input": TEXT}, ensure_ascii=ascii_only)
    assert read(arguments, size) == TEXT
    assert read(arguments.replace(":", " :\n", 1), size) == TEXT


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"patch": "abc"}', "abc"),
        ('"abc"', "abc"),
        ('{"a": "x", "b": "y"}', '{"a": "x", "b": "y"}'),
        ("not JSON", "not JSON"),
        ('{"input": {"a": 1}}', '{"input": {"a": 1}}'),
        ('{"input": "cut \\u12', "cut "),
        (r'{"input": "\ud83d\u0041\udc00\q"}', "\ufffdA\ufffdq"),
        (r'{"input": "\uzzzz"}', "\ufffd"),
        ("", ""),
    ],
)
def test_what_a_model_may_write_instead(arguments: str, text: str) -> None:
    for size in (1, 4, 1_000):
        assert read(arguments, size) == text


def test_calls_of_both_kinds_in_one_answer() -> None:
    tools = [{"function": {"name": name}} for name in ("f", "patch")]
    functions = functions_of(tools, "hermes")
    parser = CustomAnswerParser(
        AnswerParser(format_name="hermes", functions=functions), ("patch",), "input"
    )
    calls = [("patch", {"input": TEXT}), ("f", {"input": "x"}), ("patch", {"other": "z"})]
    text = "hi\n" + "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
        for name, arguments in calls
    )
    message, deltas = Message(), []
    for character in text:
        deltas += parser.push(character)
    deltas += parser.finish()
    for delta in deltas:
        message.add(delta)
    assert message.content == "hi"
    assert [call.arguments for call in message.calls] == [TEXT, '{"input": "x"}', "z"]
    assert parser.calls == 3
    kinds = [type(delta) for delta in deltas if not isinstance(delta, CallArguments)]
    assert kinds[-3:] == [CallBegin] * 3
    assert Content in kinds
