"""The forms that tools come in, made into one: older functions, allowed tools, unknown kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.http.warnings import Warnings

SERVED: Final = ("function", "custom")
"""Kinds of tools; each tool has a member that is named like its kind."""
_LONGEST_KIND: Final = 60

Json = dict[str, Any]


def inconsistent(param: str, message: str) -> PydanticCustomError:
    """Return the error of a field that does not fit another; `param` is for the client."""
    return PydanticCustomError("inconsistent", "{message}", {"message": message, "param": param})


def without_unknown(body: Json, warnings: Warnings) -> Json:
    """Return a chat's body without the tools that this server does not run, which is reported.

    A `tool_choice` of such a tool, or of any tool if none is left, is dropped too.
    """
    tools = body.get("tools")
    if not isinstance(tools, list):
        return body
    known_tools: list[Any] = []
    for tool in cast("list[object]", tools):
        kind: object = cast("Json", tool).get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in SERVED:
            warnings.add(left_out(kind))
        else:
            known_tools.append(tool)
    if len(known_tools) == len(cast("list[Any]", tools)):
        return body
    return without_lost_choice({**body, "tools": known_tools}, warnings)


def left_out(kind: str) -> str:
    """Return the warning of tools of a kind that this server does not run."""
    return f"tools of type {kind[:_LONGEST_KIND]!r} are not run by this server, left out"


def without_lost_choice(body: Json, warnings: Warnings) -> Json:
    """Return a body without a `tool_choice` that its tools, some of which were left out, lack."""
    choice: Any = body.get("tool_choice")
    lost = choice == "required" and not body["tools"]
    if isinstance(choice, dict):
        kind = cast("Json", choice).get("type")
        lost = isinstance(kind, str) and kind not in (*SERVED, "allowed_tools")
    if not lost:
        return body
    warnings.add("tool_choice asks for a tool that was left out, ignored")
    return {name: value for name, value in body.items() if name != "tool_choice"}


def only_allowed(body: object) -> object:
    """Take `tool_choice` of type `allowed_tools` for what it means: these tools, and its mode.

    The model is shown no others, so it cannot call one.
    """
    if not isinstance(body, dict):
        return body
    fields = cast("Json", body)
    choice: Any = fields.get("tool_choice")
    if not isinstance(choice, dict) or "allowed_tools" not in choice:
        return fields
    try:
        allowed = cast("Json", choice["allowed_tools"])
        mode: object = allowed["mode"]
        names = [_name(tool) for tool in allowed["tools"] if tool["type"] in SERVED]
        offered = {_name(tool): tool for tool in fields.get("tools") or ()}
    except (KeyError, TypeError):
        raise inconsistent("tool_choice", "allowed_tools: mode and tools are needed") from None
    if mode not in ("auto", "required") or not names or not offered.keys() >= set(names):
        raise inconsistent("tool_choice", "allowed_tools: auto or required, and of the tools")
    return {**fields, "tools": [offered[name] for name in names], "tool_choice": mode}


def _name(tool: Json) -> str:
    return tool[tool["type"]]["name"]


def newer_form(body: object) -> object:
    """Return a body's older `functions`, `function_call` and messages of functions as tools."""
    if not isinstance(body, dict):
        return body
    fields = cast("Json", body)
    messages: Any = fields.get("messages")
    if isinstance(messages, list):
        fields = {**fields, "messages": list(_newer_messages(cast("list[Any]", messages)))}
    functions: Any = fields.get("functions")
    if functions is None:
        return {name: value for name, value in fields.items() if name != "function_call"}
    if fields.get("tools"):
        raise inconsistent("functions", "excludes tools")
    if not isinstance(functions, list):
        return fields  # its type is checked like any other field's
    older = cast("list[Any]", functions)
    tools = [{"type": "function", "function": function} for function in older]
    choice: Any = fields.get("function_call")
    if isinstance(choice, dict):
        choice = {"type": "function", "function": cast("Json", choice)}
    newer = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
    return {**fields, **(newer if older else {})}


def _newer_messages(messages: list[Any]) -> Iterator[Any]:
    """Yield the messages; a function's call and its result are joined by an id."""
    call_id = ""
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            yield message
            continue
        fields = cast("Json", message)
        call = fields.get("function_call")
        if fields.get("role") == "function":
            rest_of_fields = {name: value for name, value in fields.items() if name != "role"}
            yield {**rest_of_fields, "role": "tool", "tool_call_id": call_id or _call_id(position)}
        elif isinstance(call, dict) and not fields.get("tool_calls"):
            call_id = _call_id(position)
            function = cast("Json", call)
            calls = [{"id": call_id, "type": "function", "function": function}]
            rest_of_fields = {
                name: value for name, value in fields.items() if name != "function_call"
            }
            yield {**rest_of_fields, "tool_calls": calls}
        else:
            yield fields


def _call_id(position: int) -> str:
    """Return an id of nine letters and digits, which Mistral's templates demand."""
    return f"call{position:05d}"
