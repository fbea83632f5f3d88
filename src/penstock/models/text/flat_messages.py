"""Converts chat messages from OpenAI's format to the one that chat templates expect."""

from __future__ import annotations

from typing import Any, cast

from penstock.errors import InvalidParameter
from penstock.foreign import TooDeep, parse_json

_TEXT_PARTS = ("text", "input_text", "output_text")


def flattened(message: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with text parts joined and tool calls' arguments as objects.

    :raises InvalidParameter: the role is missing, or a part is not text.
    """
    if not isinstance(message.get("role"), str):
        raise InvalidParameter("each message needs a role", param="messages")
    flat = dict(message)
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        flat["content"] = "".join(_text_of(part) for part in cast("list[Any]", content))
    elif content is None:
        flat["content"] = ""
    elif not isinstance(content, str):
        raise InvalidParameter("a message's content is text or a list of parts", param="messages")
    calls = message.get("tool_calls")
    if isinstance(calls, (list, tuple)) and calls:
        flat["tool_calls"] = [_with_object_arguments(call) for call in cast("list[Any]", calls)]
    return flat


def _text_of(part: Any) -> str:
    fields = _fields(part)
    kind, text = fields.get("type"), fields.get("text")
    if isinstance(part, str):
        return part
    if kind in _TEXT_PARTS and isinstance(text, str):
        return text
    raise InvalidParameter(
        f"this model takes text only, not a part of type {kind or type(part).__name__!r}",
        param="messages",
    )


def _with_object_arguments(call: Any) -> Any:
    """Return a call with its arguments as an object: OpenAI sends JSON text, templates expect objects.

    :raises InvalidParameter: they are nested too deeply.
    """
    function = _fields(_fields(call).get("function"))
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        parsed = parse_json(arguments or "{}")
    except TooDeep as error:
        raise InvalidParameter(f"a tool call's arguments are {error}", param="messages") from error
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": parsed}}


def _fields(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
