"""Parsing one text cut in every way: the message must be the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.parsing.answer import AnswerParser, functions_of
from api.parsing.deltas import Content, Message, Thought

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def parsed(pieces: Iterable[str], **how: Any) -> Message:
    """Return the message that an answer's pieces make."""
    parser = AnswerParser(**how)
    message = Message()
    for piece in pieces:
        for delta in parser.push(piece):
            assert not isinstance(delta, (Content, Thought)) or delta.text
            message.add(delta)
    for delta in parser.finish():
        message.add(delta)
    assert parser.calls == len(message.calls)
    return message


def cuts(text: str) -> Iterable[Sequence[str]]:
    """Yield the text whole, in characters, in pieces of some sizes, and cut in two at many places."""
    yield [text]
    yield list(text)
    for size in (2, 3, 7):
        yield [text[start : start + size] for start in range(0, len(text), size)]
    for place in range(1, len(text), 1 + len(text) // 60):
        yield [text[:place], text[place:]]


def everyway(text: str, **how: Any) -> Message:
    """Return the message of a text, the same however it is cut."""
    results = [parsed(pieces, **how) for pieces in cuts(text)]
    for result in results:
        assert result == results[0]
    return results[0]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """Return a tool as OpenAI writes it."""
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = (
    tool(
        "get_weather",
        city={"type": "string"},
        days={"type": "integer"},
        metric={"type": "boolean"},
        places={"type": "array", "items": {"type": "object"}},
        note={"anyOf": [{"type": "string"}, {"type": "null"}]},
        anything={},
    ),
    tool("now"),
    tool("write-file", path={"type": "string"}, text={"type": "string"}),
)


def read(dialect: str, text: str, **how: Any) -> Message:
    """Return the message of a text in a dialect, with the tools above."""
    return everyway(text, format_name=dialect, functions=functions_of(TOOLS, dialect), **how)
