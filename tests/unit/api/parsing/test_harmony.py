"""gpt-oss's messages, on texts as OpenAI's harmony guide writes them."""

from __future__ import annotations

import pytest

from api.parsing.deltas import Call, Message
from tests.unit.api.parsing.cuts import everyway, parsed, read

THOUGHT = '<|channel|>analysis<|message|>User asks: "weather"? {x} <b>\n\nNeed a tool.<|end|>'
PARIS = '{"city": "Paris 🙂", "places": [{"a": "<|b|>"}]}'
IN_ROLE = "<|start|>assistant to=functions.{}<|channel|>commentary json<|message|>{}<|call|>"
IN_CHANNEL = (
    "<|start|>assistant<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
)
FINAL = "<|channel|>final<|message|>It is 2 + 2 = 4.\n<|return|>"
REASONING = 'User asks: "weather"? {x} <b>\n\nNeed a tool.'
WEATHER = Call("get_weather", PARIS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FINAL, Message("It is 2 + 2 = 4.\n")),
        (f"{THOUGHT}<|start|>assistant{FINAL}", Message("It is 2 + 2 = 4.\n", REASONING)),
        (THOUGHT + IN_ROLE.format("get_weather", PARIS), Message("", REASONING, [WEATHER])),
        (THOUGHT + IN_CHANNEL.format("get_weather", PARIS), Message("", REASONING, [WEATHER])),
        (
            f" to=functions.get_weather<|channel|>commentary json<|message|>{PARIS}<|call|>",
            Message("", "", [WEATHER]),
        ),
        (
            "<|channel|>commentary to=functions.now <|constrain|>json<|message|><|call|>",
            Message("", "", [Call("now", "{}")]),
        ),
        (
            "<|channel|>commentary<|message|>I look it up.<|end|>"
            + IN_ROLE.format("get_weather", PARIS),
            Message("I look it up.", "", [WEATHER]),
        ),
        (
            IN_ROLE.format("get_weather", PARIS) + IN_CHANNEL.format("now", "{}"),
            Message("", "", [WEATHER, Call("now", "{}")]),
        ),
        (
            f"{THOUGHT}<|start|>assistant<|channel|>analysis<|message|>More.<|end|>",
            Message("", f"{REASONING}\n\nMore."),
        ),
        ("<|channel|>analysis<|message|>Never ends", Message("", "Never ends")),
        ("<|channel|>commentary to=python code<|message|>1 + 1<|call|>", Message("1 + 1")),
        ("Plain text, [no] header.\n", Message("Plain text, [no] header.\n")),
        ("<|channel|>final", Message("<|channel|>final")),
        ("", Message()),
    ],
)
def test_messages(text: str, message: Message) -> None:
    assert read("harmony", text) == message


def test_channels_are_read_without_tools() -> None:
    text = f"{THOUGHT}<|start|>assistant{FINAL}"
    assert everyway(text, format_name="harmony") == Message("It is 2 + 2 = 4.\n", REASONING)


def test_a_function_that_is_unknown_is_called_by_its_name() -> None:
    message = read("harmony", IN_ROLE.format("nobody", "{}"))
    assert message.calls == [Call("nobody", "{}")]


def test_a_text_that_breaks_off() -> None:
    text = THOUGHT + IN_ROLE.format("get_weather", PARIS)
    how = {"format_name": "harmony", "functions": {"get_weather": {}}}
    for end in range(0, len(text), 3):
        assert parsed([text[:end]], **how) == parsed(list(text[:end]), **how), end
