"""Converts chat messages from OpenAI's format to the one that chat templates expect."""

from __future__ import annotations

from typing import Any, cast

from penstock.contract.job import IMAGE_PART
from penstock.errors import InvalidParameter
from penstock.foreign import TooDeep, parse_json

_TEXT_PARTS = ("text", "input_text", "output_text")


def images_in(message: dict[str, Any]) -> int:
    """How many images a message holds."""
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return 0
    parts = cast("list[Any]", content)
    return sum(_fields(part).get("type") == IMAGE_PART for part in parts)


def flattened(message: dict[str, Any], image: str | None = None) -> dict[str, Any]:
    """Return a copy with text parts joined and tool calls' arguments as objects.

    `image` is what stands for an image: `IMAGE_PART` for a part, which leaves the message in
    parts, else a marker on a line of its own within the text.

    :raises InvalidParameter: the role is missing, or a part that the model does not take.
    """
    if not isinstance(message.get("role"), str):
        raise InvalidParameter("each message needs a role", param="messages")
    flat = dict(message)
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        parts = cast("list[Any]", content)
        if image == IMAGE_PART and images_in(message):
            flat["content"] = [_part_of(part) for part in parts]
        else:
            flat["content"] = "".join(_text_of(part, image) for part in parts)
    elif content is None:
        flat["content"] = ""
    elif not isinstance(content, str):
        raise InvalidParameter("a message's content is text or a list of parts", param="messages")
    calls = message.get("tool_calls")
    if isinstance(calls, (list, tuple)) and calls:
        flat["tool_calls"] = [_with_object_arguments(call) for call in cast("list[Any]", calls)]
    return flat


def _part_of(part: Any) -> dict[str, Any]:
    if _fields(part).get("type") == IMAGE_PART:
        return {"type": IMAGE_PART}
    return {"type": "text", "text": _text_of(part, None)}


def _text_of(part: Any, image: str | None) -> str:
    fields = _fields(part)
    if image is not None and fields.get("type") == IMAGE_PART:
        return f"{image}\n"
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
