"""Parsers of reasoning and tool calls: the same result however the text is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.parsing.answer import AnswerParser
from api.parsing.deltas import Call, CallArguments, Content, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

THINK = ("<think>", "</think>")
NAMES = ("f", "get_weather")


def parsed(pieces: Iterable[str], **how) -> Message:
    parser = AnswerParser(**how)
    message = Message()
    for piece in pieces:
        for delta in parser.push(piece):
            assert not isinstance(delta, Content) or delta.text
            message.add(delta)
    for delta in parser.finish():
        message.add(delta)
    assert parser.calls == len(message.calls)
    return message


def cuts(text: str) -> Iterable[Sequence[str]]:
    yield [text]
    yield list(text)
    for size in (2, 3, 7):
        yield [text[start : start + size] for start in range(0, len(text), size)]
    for place in range(1, len(text)):
        yield [text[:place], text[place:]]


def everyway(text: str, **how) -> Message:
    results = [parsed(pieces, **how) for pieces in cuts(text)]
    for result in results:
        assert result == results[0]
    return results[0]


# -- reasoning


@pytest.mark.parametrize(
    ("text", "thought", "content"),
    [
        ("<think>\nhm, 2 < 3\n</think>\n\nyes", "hm, 2 < 3", "yes"),
        ("\n<think>hm</think>yes </think>", "hm", "yes </think>"),
        ("<think></think>yes", "", "yes"),
        ("<think>\n\n</think>\n\n yes", "", "yes"),
        ("<think>never ends </thi", "never ends </thi", ""),
        ("no <think>hm</think>", "", "no <think>hm</think>"),
        ("<thin", "", "<thin"),
        ("  plain", "", "  plain"),
        ("<think>a</think>", "a", ""),
        ("", "", ""),
    ],
)
def test_reasoning(text: str, thought: str, content: str) -> None:
    message = everyway(text, reasoning=THINK)
    assert (message.thought, message.content) == (thought, content)


def test_without_markers_all_is_content() -> None:
    assert everyway("<think>hm</think>yes").content == "<think>hm</think>yes"


# -- calls

F = '{"name": "f", "arguments": {"a": "}</tool_call>{\\"", "b": [1, {}]}}'
F_CALL = Call("f", '{"a": "}</tool_call>{\\"", "b": [1, {}]}')
HERMES = {"format_name": "hermes", "functions": NAMES}


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"<tool_call>\n{F}\n</tool_call>", "", [F_CALL]),
        (f"Let me see.\n\n<tool_call>{F}</tool_call>", "Let me see.", [F_CALL]),
        (f"<tool_call>{F}</tool_call>\n<tool_call>{F}</tool_call>\n", "", [F_CALL, F_CALL]),
        (f"<tool_call>{F}</tool_call> and so", " and so", [F_CALL]),
        (f"<tool_call>{F}", "", [F_CALL]),
        (f"<tool_call>{F}\n<tool_call>{F}</tool_call>", "", [F_CALL, F_CALL]),
        (
            '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>',
            "",
            [Call("f", '{"x": 1}')],
        ),
        (
            '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
            "",
            [Call("f", '{"x": 1}')],
        ),
        ('<tool_call>{"name": "f"}</tool_call>', "", [Call("f", "{}")]),
        ('<tool_call>{"name": "caf\\u00e9", "arguments": {}}', "", [Call("café", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"x": "cut o', "", [Call("f", '{"x": "cut o')]),
        ('<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
        ("<tool_call>f(1)</tool_call>", "<tool_call>f(1)</tool_call>", []),
        ("<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", []),
        ('<tool_call>{"name": "f", "arguments": 3}', '<tool_call>{"name": "f", "arguments": 3}', []),
        ("a < b <tool_cal", "a < b <tool_cal", []),
        ("a  \n", "a  \n", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_hermes(text: str, content: str, calls: list[Call]) -> None:
    message = everyway(text, **HERMES)
    assert (message.content, message.calls) == (content, calls)


LLAMA = {"format_name": "llama3_json", "functions": NAMES}
G = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
G_CALL = Call("get_weather", '{"city": "Paris"}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (G, "", [G_CALL]),
        (f"\n<|python_tag|>{G}", "", [G_CALL]),
        (f"{G}; {G}", "", [G_CALL, G_CALL]),
        (f"{G}\n{G};", "", [G_CALL, G_CALL]),
        (f"See: {G}", f"See: {G}", []),
        ('{"name": "Bob", "parameters": {"x": 1}}', '{"name": "Bob", "parameters": {"x": 1}}', []),
        ('{"answer": 42} is it', '{"answer": 42} is it', []),
        ('  {"answer": [', '  {"answer": [', []),
        ("<|python", "<|python", []),
        ("plain", "plain", []),
    ],
)
def test_llama(text: str, content: str, calls: list[Call]) -> None:
    message = everyway(text, **LLAMA)
    assert (message.content, message.calls) == (content, calls)


MISTRAL = {"format_name": "mistral", "functions": NAMES}


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"[TOOL_CALLS][{F}]", "", [F_CALL]),
        (f"[TOOL_CALLS] [{F}, {F}]", "", [F_CALL, F_CALL]),
        (f"Well.\n[TOOL_CALLS] [{F}] ", "Well.", [F_CALL]),
        ('[TOOL_CALLS]f[ARGS]{"x": {"y": 1}}', "", [Call("f", '{"x": {"y": 1}}')]),
        ('[TOOL_CALLS]f{"x": 1}[TOOL_CALLS]g{}', "", [Call("f", '{"x": 1}'), Call("g", "{}")]),
        ('[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"x": 1}', "", [Call("f", '{"x": 1}')]),
        ("[TOOL_CALLS] not a call, {}", "[TOOL_CALLS] not a call, {}", []),
        ("[TOOL_CALLS][1, 2]", "[TOOL_CALLS][1, 2]", []),
        ("[TOOL_", "[TOOL_", []),
        ("[a list]", "[a list]", []),
    ],
)
def test_mistral(text: str, content: str, calls: list[Call]) -> None:
    message = everyway(text, **MISTRAL)
    assert (message.content, message.calls) == (content, calls)


def test_reasoning_comes_before_the_calls() -> None:
    text = f"<think>I could <tool_call>.\n</think>\n\n<tool_call>{F}</tool_call>"
    message = everyway(text, reasoning=THINK, **HERMES)
    assert message == Message("", "I could <tool_call>.", [F_CALL])


def test_calls_beyond_the_most_are_dropped() -> None:
    text = f"<tool_call>{F}</tool_call>\n<tool_call>{F}</tool_call>"
    assert everyway(text, most_calls=1, **HERMES).calls == [F_CALL]


def test_arguments_come_as_they_are_written() -> None:
    parser = AnswerParser(**HERMES)
    told = [delta for character in f"<tool_call>{F}" for delta in parser.push(character)]
    pieces = [delta.text for delta in told if isinstance(delta, CallArguments)]
    assert len(pieces) == len(F_CALL.arguments)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=5), values, max_size=3), min_size=1, max_size=3),
    st.sampled_from(["hermes", "llama3_json", "mistral"]),
    st.booleans(),
    st.integers(1, 9),
)
def test_any_arguments_come_back(arguments, format_name, ascii_only, size) -> None:
    written = [
        json.dumps({"name": "f", "arguments": one}, ensure_ascii=ascii_only) for one in arguments
    ]
    text = {
        "hermes": "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in written),
        "llama3_json": "; ".join(written),
        "mistral": f"[TOOL_CALLS] [{', '.join(written)}]",
    }[format_name]
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    message = parsed(pieces, format_name=format_name, functions=NAMES)
    assert [json.loads(call.arguments) for call in message.calls] == arguments
    assert not message.content


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*'<{}[]"\\ :,/ab;\n', "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<think>",
             "</think>", '{"name": "f", "arguments": ', "[ARGS]"]
        ),
        max_size=24,
    ).map("".join),
    st.sampled_from(["hermes", "llama3_json", "mistral"]),
)  # fmt: skip
def test_no_text_breaks_a_parser_and_no_cut_changes_it(text, format_name) -> None:
    how = {"format_name": format_name, "functions": NAMES, "reasoning": THINK}
    whole, single = parsed([text], **how), parsed(list(text), **how)
    assert whole.calls == single.calls
    assert whole.thought == single.thought
    assert whole.content.split() == single.content.split()
