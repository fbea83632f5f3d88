"""Parsers of reasoning and tool calls: the same result however the text is cut."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.parsing.answer import AnswerParser
from api.parsing.deltas import Call, CallArguments, Message
from api.parsing.dialects import DIALECTS
from tests.unit.api.parsing.cuts import everyway, parsed

THINK = ("<think>", "</think>")
NAMES = {"f": {}, "get_weather": {}}


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


@settings(max_examples=60, deadline=None)
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


PIECES = (
    *'<{}[]"\\ :,/ab;=()\'\n0', "f", "get_weather", " ", "<think>", "</think>", "<tool_call>",
    "</tool_call>", "[TOOL_CALLS]", "[ARGS]", '{"name": "f", "arguments": ', "{}", "}}",
    "<function=f>", "</function>", "<parameter=a>", "</parameter>", "<arg_key>", "</arg_key>",
    "<arg_value>", "</arg_value>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>",
    "analysis", "commentary to=functions.f", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<|tool_call_begin|>", "functions.f:0",
    "<|tool_call_argument_begin|>", "<minimax:tool_call>", '<invoke name="f">', "</invoke>",
    '<parameter name="a">', "<|tool_call>", "call:f{", '<|"|>', "<tool_call|>", "f(a=", "f(",
    "```tool_code", "```json", "```", "<|tool_call_start|>", "functools", "<TOOLCALL>",
    "<|START_ACTION|>", "<|action_start|>", "<|plugin|>", "<|python_tag|>", "<｜DSML｜function_calls>",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24), st.sampled_from(sorted(DIALECTS)))
def test_no_text_breaks_a_parser_and_no_cut_changes_it(pieces: list[str], dialect: str) -> None:
    functions = {"f": {"a": ["string"], "b": ["integer"]}, "get_weather": {}}
    how = {"format_name": dialect, "functions": functions, "reasoning": THINK}
    text = "".join(pieces)
    whole = parsed([text], **how)
    assert parsed(list(text), **how) == whole
    assert parsed(pieces, **how) == whole


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_long_text_is_read_in_time_that_grows_with_it(dialect: str) -> None:
    """A model may be asked to repeat the beginning of a call: each is looked at once."""
    begins = [one for one in PIECES if len(one) > 3]
    text = "".join(one * 300 for one in begins)
    started_s = time.process_time()
    parsed([text], format_name=dialect, functions=NAMES)
    assert time.process_time() - started_s < 5


CUT_BEHIND_A_CALL = [
    '{"name": "f", "arguments": {}}', "\n", "\n", "Done", ".", "\n\n", "Second", " paragraph",
    ":", "\n", "-", " a",
]  # fmt: skip


def test_white_space_behind_a_call_is_kept_however_it_is_cut() -> None:
    message = Message("\n\nDone.\n\nSecond paragraph:\n- a", "", [Call("f", "{}")])
    assert parsed(CUT_BEHIND_A_CALL, **LLAMA) == message
    assert everyway("".join(CUT_BEHIND_A_CALL), **LLAMA) == message
