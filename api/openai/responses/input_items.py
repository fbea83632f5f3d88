"""Items of /v1/responses -> the body of a chat completion that means the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, cast

from api.openai.responses.schema import PASSED_ON, SERVED_INCLUDES
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from api.openai.responses.schema import ResponseRequest

TEXT_PARTS: Final = {"input_text": "text", "output_text": "text", "text": "text"}
ID_CHARACTERS: Final = 32
Item = dict[str, Any]


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
    prefix = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}.get(kind)
    digest = hashlib.sha256(f"{response_id}\0input\0{position}".encode()).hexdigest()
    return f"{prefix or 'item'}_{digest[:ID_CHARACTERS]}"


def chat_body(
    asked: ResponseRequest, body: dict[str, Any], history: Iterable[Item], items: Sequence[Item]
) -> dict[str, Any]:
    """Return the body of a chat completion: `history`, then the request's own `items`.

    :raises InvalidParameter: an item lacks something.
    :raises UnsupportedFeature: an item, a tool or an option that is not served.
    """
    for name in asked.include or ():
        if name not in SERVED_INCLUDES:
            raise UnsupportedFeature(f"include {name[:60]!r} is not supported", param="include")
    messages = _Messages()
    if asked.instructions:
        messages.add({"role": "system", "content": asked.instructions})
    for item in history:
        messages.item(item, "previous_response_id")
    for position, item in enumerate(items):
        messages.item(item, f"input[{position}]")
    if not messages.messages:
        raise InvalidParameter("input: at least one item is needed", param="input")
    chat: dict[str, Any] = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    chat["messages"] = messages.messages
    return chat | _options(asked)


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
    if asked.tools:
        chat["tools"] = [_tool(tool, f"tools[{n}]") for n, tool in enumerate(asked.tools)]
        if asked.tool_choice is not None:
            chat["tool_choice"] = _tool_choice(asked.tool_choice)
        if asked.parallel_tool_calls is not None:
            chat["parallel_tool_calls"] = asked.parallel_tool_calls
    return chat


class _Messages:
    """Puts items together to messages: an assistant's text, reasoning and calls are one."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._reasoning = ""

    def add(self, message: dict[str, Any]) -> None:
        """Add a message as it stands."""
        self.messages.append(message)

    def item(self, item: Item, where: str) -> None:
        """Add an item."""
        match item["type"]:
            case "message":
                self._message(item, where)
            case "function_call":
                self._call(item, where)
            case "function_call_output":
                output = _text(_needed(item, "output", where), f"{where}.output")
                call_id = _needed(item, "call_id", where)
                self.add({"role": "tool", "tool_call_id": call_id, "content": output})
            case "reasoning":
                parts = cast("list[Any]", item.get("content") or item.get("summary") or [])
                self._reasoning += "".join(str(part.get("text", "")) for part in parts)
            case other:
                raise UnsupportedFeature(
                    f"{where}: items of type {str(other)[:40]!r} are not supported",
                    param=f"{where}.type",
                )

    def _message(self, item: Item, where: str) -> None:
        role = _needed(item, "role", where)
        message = {"role": role, "content": _text(_needed(item, "content", where), where)}
        if role == "assistant":
            message |= self._thoughts()
        self.add(message)

    def _call(self, item: Item, where: str) -> None:
        function = {name: _needed(item, name, where) for name in ("name", "arguments")}
        call = {"id": _needed(item, "call_id", where), "type": "function", "function": function}
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and not self._reasoning:
            last.setdefault("tool_calls", []).append(call)
        else:
            self.add(
                {"role": "assistant", "content": None, "tool_calls": [call], **self._thoughts()}
            )

    def _thoughts(self) -> dict[str, str]:
        reasoning, self._reasoning = self._reasoning, ""
        return {"reasoning_content": reasoning} if reasoning else {}


def _needed(item: Item, name: str, where: str) -> Any:
    if item.get(name) is None:
        raise InvalidParameter(f"{where}.{name}: Field required", param=f"{where}.{name}")
    return item[name]


def _text(content: Any, where: str) -> str | list[dict[str, Any]]:
    """Return content in the shape of a chat's messages."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidParameter(f"{where}: must be a string or a list of parts", param=where)
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(cast("list[Any]", content)):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            parts.append({"type": "refusal", "refusal": part.get("refusal")})
        elif kind in TEXT_PARTS and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        else:
            at = f"{where}.content[{position}]" if not where.endswith("output") else where
            raise UnsupportedFeature(
                f"{at}: content of type {str(kind)[:40]!r} is not supported: text only", param=at
            )
    return parts


def _response_format(given: dict[str, Any]) -> dict[str, Any]:
    """Responses put a schema's fields beside `type`, chat completions below `json_schema`."""
    if given.get("type") != "json_schema":
        return given
    schema = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise UnsupportedFeature(
            f"{where}: tools of type {str(tool.get('type'))[:40]!r} are not supported: functions only",
            param=f"{where}.type",
        )
    function = {name: value for name, value in tool.items() if name != "type"}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any]) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools = [_tool(tool, "tool_choice.tools") for tool in choice.get("tools") or ()]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.get("mode"), "tools": tools},
        }
    return choice


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
