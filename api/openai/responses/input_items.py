"""Items of /v1/responses -> the body of a chat completion that means the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from api.openai.responses.input_messages import InputMessages
from api.openai.responses.input_tools import InputTools
from api.openai.responses.schema import PASSED_ON, SERVED_INCLUDES
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from api.http.warnings import Warnings
    from api.openai.responses.input_tools import Namespaces
    from api.openai.responses.item_kinds import Item
    from api.openai.responses.schema import ResponseRequest

ID_CHARACTERS: Final = 32
ID_PREFIXES: Final = {
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "function_call": "fc",
    "function_call_output": "fco",
    "message": "msg",
}


def items_of(asked: ResponseRequest, response_id: str) -> list[Item]:
    """Return the request's own input as items with ids.

    :raises InvalidParameter: an item that is none.
    """
    if isinstance(asked.input, str):
        content = [{"type": "input_text", "text": asked.input}]
        given: list[Item] = [{"type": "message", "role": "user", "content": content}]
    else:
        given = asked.input
    items: list[Item] = []
    for position, item in enumerate(given):
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str):
            where = f"input[{position}].type"
            raise InvalidParameter(f"{where}: Field required", param=where)
        items.append({"id": _id(response_id, position, kind), **item, "type": kind})
    return items


def _id(response_id: str, position: int, kind: str) -> str:
    digest = hashlib.sha256(f"{response_id}\0input\0{position}".encode()).hexdigest()
    return f"{ID_PREFIXES.get(kind, 'item')}_{digest[:ID_CHARACTERS]}"


def chat_body(
    asked: ResponseRequest,
    body: dict[str, Any],
    history: Iterable[Item],
    items: Sequence[Item],
    warnings: Warnings,
) -> tuple[dict[str, Any], Namespaces]:
    """Return the body of a chat completion, and the namespaces of its functions.

    It is made of `history`, then the request's own `items`. What is left out is in `warnings`.

    :raises InvalidParameter: an item lacks something.
    :raises UnsupportedFeature: a user's content that is no text.
    """
    for name in asked.include or ():
        if name not in SERVED_INCLUDES:
            warnings.add(f"include {name[:60]!r} is not supported, left out")
    tools = InputTools(warnings)
    tools.add(asked.tools or ())
    messages = InputMessages(tools, warnings)
    if asked.instructions:
        messages.system(asked.instructions)
    for item in history:
        messages.item(item, "previous_response_id")
    for position, item in enumerate(items):
        messages.item(item, f"input[{position}]")
    if not messages.messages:
        raise InvalidParameter("input: at least one item is needed", param="input")
    chat: dict[str, Any] = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    chat["messages"] = messages.messages
    return chat | _options(asked) | _tools(asked, tools), tools.namespaces


def _options(asked: ResponseRequest) -> dict[str, Any]:
    """Return the fields that have another name or shape in a chat completion."""
    chat: dict[str, Any] = {}
    if asked.max_output_tokens is not None:
        chat["max_completion_tokens"] = asked.max_output_tokens
    if asked.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    if asked.reasoning and asked.reasoning.effort:
        chat["reasoning_effort"] = asked.reasoning.effort
    if asked.text and asked.text.format:
        chat["response_format"] = _response_format(asked.text.format)
    return chat


def _tools(asked: ResponseRequest, tools: InputTools) -> dict[str, Any]:
    choice = tools.choice(asked.tool_choice) if asked.tool_choice is not None else None
    if not tools.tools:
        # A choice of tools that there never were is the client's mistake, and named as such.
        return {"tool_choice": choice} if choice not in (None, "auto", "none") else {}
    chat: dict[str, Any] = {"tools": tools.tools}
    if choice is not None:
        chat["tool_choice"] = choice
    if asked.parallel_tool_calls is not None:
        chat["parallel_tool_calls"] = asked.parallel_tool_calls
    return chat


def _response_format(given: dict[str, Any]) -> dict[str, Any]:
    """Responses put a schema's fields beside `type`, chat completions below `json_schema`."""
    if given.get("type") != "json_schema":
        return given
    schema = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def blamed(param: str | None) -> str | None:
    """Return the field of this request for one of the chat completion that was made of it."""
    if param is None:
        return None
    for chat, own in (
        ("messages", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("max_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("reasoning_effort", "reasoning.effort"),
    ):
        if param == chat or param.startswith((f"{chat}[", f"{chat}.")):
            # Positions of messages are not those of items.
            return own if chat == "messages" else own + param[len(chat) :]
    return param
