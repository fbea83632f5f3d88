"""Dialects whose arguments are JSON, on texts as the families' templates and guides write them."""

from __future__ import annotations

import pytest

from api.parsing.answer import functions_of
from api.parsing.deltas import Call, Message
from tests.unit.api.parsing.cuts import TOOLS, parsed, read
from tests.unit.api.parsing.written import dumped, written

ARGUMENTS = {"city": 'Zürich 🙂 "x" }', "places": [{"a": [1, {}]}, {}]}
WEATHER = Call("get_weather", dumped(ARGUMENTS))
NOW = Call("now", "{}")
CALLS = (("get_weather", ARGUMENTS), ("now", {}))

NAMES = (
    "hermes", "llama3_json", "mistral", "mistral_args", "deepseek_v3", "deepseek_v31", "kimi_k2",
    "granite", "phi4", "phi4_mini", "command", "nemotron", "internlm", "lfm2, json", "glm4",
)  # fmt: skip
TWO = {name.partition(",")[0]: written(name, CALLS) for name in NAMES}
ANYWHERE = [name for name in TWO if name not in ("llama3_json", "glm4")]
"""Dialects whose calls may stand behind text."""


@pytest.mark.parametrize("dialect", TWO)
def test_two_calls(dialect: str) -> None:
    message = read(dialect, TWO[dialect])
    assert (message.content, message.calls) == ("", [WEATHER, NOW])


@pytest.mark.parametrize("dialect", TWO)
def test_calls_with_white_space_around_them(dialect: str) -> None:
    message = read(dialect, f"\n{TWO[dialect]}\n \n")
    assert (message.content, message.calls) == ("", [WEATHER, NOW])


@pytest.mark.parametrize("dialect", ANYWHERE)
def test_text_before_and_after_calls(dialect: str) -> None:
    message = read(dialect, f"Let me see [1] <b> {{x}}.\n\n{TWO[dialect]}\n\nDone.\n- a")
    assert message.content == "Let me see [1] <b> {x}.\n\nDone.\n- a"
    assert message.calls == [WEATHER, NOW]


@pytest.mark.parametrize("dialect", TWO)
def test_text_behind_a_call_keeps_its_white_space(dialect: str) -> None:
    message = read(dialect, f"{TWO[dialect]}\n\nDone.\n\nSecond paragraph:\n- a")
    assert message.content == "\n\nDone.\n\nSecond paragraph:\n- a"
    assert message.calls == [WEATHER, NOW]


@pytest.mark.parametrize("dialect", TWO)
def test_text_of_no_call_is_content(dialect: str) -> None:
    for text in ('Plain [text], {with: "brackets"}.\n', "now", " \n", '["now"]', "[TOOL_"):
        message = read(dialect, text)
        assert (message.content, message.calls) == (text, [])


@pytest.mark.parametrize("dialect", TWO)
def test_a_call_that_breaks_off_is_never_a_whole_one(dialect: str) -> None:
    """However much of a call has come, its arguments are what was written of them."""
    text = TWO[dialect]
    for end in range(len(text)):
        message = read_once(dialect, text[:end], in_characters=end % 4 == 0)
        assert len(message.calls) <= 2
        for call, whole in zip(message.calls, (WEATHER, NOW), strict=False):
            assert call.name == whole.name
            assert whole.arguments.startswith(call.arguments)


def read_once(dialect: str, text: str, *, in_characters: bool) -> Message:
    how = {"format_name": dialect, "functions": functions_of(TOOLS, dialect)}
    whole = parsed([text], **how)
    if in_characters:
        assert parsed(list(text), **how) == whole
    return whole


DEEPSEEK = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
KIMI = "<|tool_calls_section_begin|>{}<|tool_calls_section_end|>"
KIMI_CALL = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
N = '{"name": "now", "arguments": {}}'
NP = '{"name": "now", "parameters": {}}'

MALFORMED = [
    ("hermes", "<tool_call>now()</tool_call> x"),
    ("hermes", '<tool_call>\n{"name": now, "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("hermes", "a <tool_call> <tool_call> b"),
    ("llama3_json", '{"name": "nobody", "parameters": {}}\n'),
    ("llama3_json", '{"answer": {"name": "now"}} is it'),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", "[TOOL_CALLS] [1, 2] "),
    ("mistral_args", "[TOOL_CALLS]now[ARGS][1]"),
    ("mistral_args", "[TOOL_CALLS] not a call, {}"),
    ("deepseek_v3", DEEPSEEK.format(V3.format("now", "[]"))),
    ("deepseek_v31", DEEPSEEK.format(V31.format("now", '"x"'))),
    ("deepseek_v31", DEEPSEEK.format("none")),
    ("kimi_k2", KIMI.format("<|tool_call_begin|>0<|tool_call_argument_begin|>{}")),
    ("kimi_k2", KIMI.format(KIMI_CALL.format("now", 0, "none"))),
    ("granite", "<|tool_call|>none of them"),
    ("granite", "<|tool_call|>[]"),
    ("phi4_mini", "functools is a module of Python: functools.cache"),
    ("phi4_mini", "functools[]"),
    ("phi4", "<|tool_call|>none<|/tool_call|>"),
    ("command", '<|START_ACTION|>[{"tool_name": 3}]<|END_ACTION|>'),
    ("nemotron", "<TOOLCALL>now</TOOLCALL>"),
    ("internlm", "<|action_start|><|interpreter|>\nprint(1)<|action_end|>"),
    ("lfm2", '<|tool_call_start|>[{"nam": 1}]<|tool_call_end|>'),
    ("glm4", "get_weather is a function\n{}"),
    ("glm4", "nobody\n{}"),
]


@pytest.mark.parametrize(("dialect", "text"), MALFORMED)
def test_a_call_that_is_none_is_content_as_it_was_written(dialect: str, text: str) -> None:
    message = read(dialect, text)
    assert (message.content, message.calls) == (text, [])


@pytest.mark.parametrize("dialect", ANYWHERE)
def test_a_call_behind_one_that_is_none(dialect: str) -> None:
    broken = next(text for name, text in MALFORMED if name == dialect)
    message = read(dialect, f"{broken}\n{TWO[dialect]}")
    assert (message.content, message.calls) == (broken, [WEATHER, NOW])


@pytest.mark.parametrize(
    ("dialect", "text", "content", "calls"),
    [
        ("hermes", f"<tool_call>{N[:-1]}\n</tool_call>ok", "ok", [NOW]),
        ("hermes", f"<tool_call>{N}<tool_call>{N}", "", [NOW, NOW]),
        ("hermes", f"<tool_call>{N[:-1]} oops}}</tool_call>", " oops}</tool_call>", [NOW]),
        ("granite", f"<tool_call>[{N}]</tool_call>", "", [NOW]),
        ("phi4", f"<|tool_call|>{N}<|/tool_call|>", "", [NOW]),
        ("mistral", f'[TOOL_CALLS][{N[:-1]}, "id": "bbc5b7ede"}}]', "", [NOW]),
        ("mistral_args", "[TOOL_CALLS]now[CALL_ID]bbc5b7ede[ARGS]{}", "", [NOW]),
        ("mistral", f"[TOOL_CALLS][{N}, 3]", ", 3]", [NOW]),
        ("llama3_json", f"<|python_tag|>{NP}", "", [NOW]),
        ("llama3_json", f"<|python_start|>{NP}<|python_end|>", "", [NOW]),
        ("llama3_json", f"{NP};", "", [NOW]),
        ("llama3_json", f"{NP}; and so", "; and so", [NOW]),
        ("kimi_k2", "<|tool_call_begin|>now:0 <|tool_call_argument_begin|> {} <|tool_call_end|>",
         "", [NOW]),
        ("deepseek_v31", V31.format("now", "{}"), "", [NOW]),
        ("internlm", f"I see.<|action_start|> <|plugin|>\n{N}<|action_end|>\n", "I see.", [NOW]),
        ("nemotron", f"<TOOLCALL>[{N}\n]</TOOLCALL>\n", "", [NOW]),
        ("glm4", "now\n```python\ntool_call()\n```", "", [NOW]),
        ("glm4", "get_weather\n```python\ntool_call(city='Beijing', days=2)\n```", "",
         [Call("get_weather", '{"city": "Beijing", "days": 2}')]),
    ],
)  # fmt: skip
def test_what_models_make_of_it(dialect: str, text: str, content: str, calls: list[Call]) -> None:
    message = read(dialect, text)
    assert (message.content, message.calls) == (content, calls)
