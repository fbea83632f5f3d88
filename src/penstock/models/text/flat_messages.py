"""Chat messages in OpenAI's shape, made into what chat templates know."""

from __future__ import annotations

from typing import Any, cast

from penstock.errors import InvalidParameter
from penstock.foreign import TooDeep, parse_json

_TEXT_PARTS = ("text", "input_text", "output_text")


def flattened(message: dict[str, Any]) -> dict[str, Any]:
    """A copy with its text parts joined and its tool calls' arguments as objects.

    :raises InvalidParameter: no role, or a part that is no text.
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
    """OpenAI sends a call's arguments as JSON text; templates expect the object.

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
