"""Markers of reasoning, and of answers that stand between markers, as the families write them."""

from __future__ import annotations

import pytest

from api.parsing.answer import AnswerParser
from api.parsing.deltas import Call, Message
from tests.unit.api.parsing.cuts import everyway, read

COMMAND = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")
GRANITE = ("<think>", "</think>", "<response>", "</response>")
ACTION = '[{"tool_call_id": "0", "tool_name": "now", "parameters": {}}]'


@pytest.mark.parametrize(
    ("markers", "text"),
    [
        (("<think>", "</think>"), "<think>\nhm, 2 < 3\n</think>\n\nyes"),
        (("[THINK]", "[/THINK]"), "[THINK]hm, 2 < 3[/THINK]yes"),
        (("<seed:think>", "</seed:think>"), "\n<seed:think>hm, 2 < 3</seed:think>\nyes"),
        (("<|channel>thought", "<channel|>"), "<|channel>thought\nhm, 2 < 3\n<channel|>yes"),
        (("<thinking>", "</thinking>"), "<thinking>hm, 2 < 3</thinking>yes"),
        (
            ("Here is my thought process:", "Here is my response:"),
            "Here is my thought process:\nhm, 2 < 3\n\nHere is my response:\nyes",
        ),
        (GRANITE, "<think>hm, 2 < 3</think>\n<response>yes</response>"),
        (GRANITE, "<think>hm, 2 < 3</think>yes"),
        (COMMAND, "<|START_THINKING|>hm, 2 < 3<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tools", [False, True])
def test_markers(markers: tuple[str, ...], text: str, tools: bool) -> None:
    how = {"format_name": "hermes", "functions": {"now": {}}} if tools else {}
    assert everyway(text, reasoning=markers, **how) == Message("yes", "hm, 2 < 3")


def test_an_answer_between_markers_without_reasoning() -> None:
    text = "<response>The tag </response> ends an answer.</response>"
    message = everyway(text, reasoning=GRANITE)
    assert message == Message("The tag  ends an answer.</response>")


def test_reasoning_then_an_action() -> None:
    text = f"<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>{ACTION}<|END_ACTION|>"
    message = read("command", text, reasoning=COMMAND)
    assert message == Message("", "I look.", [Call("now", "{}")])


def test_tokens_of_reasoning_are_counted_in_every_channel() -> None:
    parser = AnswerParser(format_name="harmony", functions={"f": {}})
    pieces = [
        "<|channel|>", "analysis", "<|message|>", "So", " then", "<|end|>",
        "<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "Yes",
    ]  # fmt: skip
    for piece in pieces:
        parser.push(piece, 1)
    assert parser.reasoning_tokens == 4
