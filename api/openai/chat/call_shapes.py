"""Calls in OpenAI's shapes: of functions, of custom tools, and the older `function_call`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.parsing.deltas import CallArguments, CallBegin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.chat.tools import Reading
    from api.parsing.deltas import Call

TOOL_CALLS: Final = "tool_calls"
FUNCTION_CALL: Final = "function_call"

Json = dict[str, Any]


def members(reading: Reading, job_id: str, calls: Sequence[Call]) -> Json:
    """Return the members of a whole message that hold its calls."""
    if not calls:
        return {}
    if reading.older:
        return {FUNCTION_CALL: {"name": calls[0].name, "arguments": calls[0].arguments}}
    return {
        TOOL_CALLS: [
            {
                "id": reading.call_id(job_id, index),
                **_call(call.name in reading.custom, call.arguments, name=call.name),
            }
            for index, call in enumerate(calls)
        ]
    }


def reason(reading: Reading) -> str:
    """Return the finish reason of whole calls."""
    return FUNCTION_CALL if reading.older else TOOL_CALLS


def _call(custom: bool, text: str, *, name: str) -> Json:
    if custom:
        return {"type": "custom", "custom": {"name": name, "input": text}}
    return {"type": "function", "function": {"name": name, "arguments": text}}


class CallDeltas:
    """The calls of one streamed choice."""

    def __init__(self, reading: Reading, job_id: str) -> None:
        self._reading = reading
        self._job_id = job_id
        self._custom: set[int] = set()

    def members(self, deltas: Sequence[CallBegin | CallArguments]) -> Json:
        """Return the members of a chunk's delta that hold these pieces of calls."""
        calls: dict[int, Json] = {}
        for delta in deltas:
            call = calls.setdefault(delta.index, {"index": delta.index})
            match delta:
                case CallBegin(index, name):
                    custom = name in self._reading.custom
                    if custom:
                        self._custom.add(index)
                    call["id"] = self._reading.call_id(self._job_id, index)
                    call |= _call(custom, "", name=name)
                case CallArguments(index, text):
                    custom = index in self._custom
                    kind, part = ("custom", "input") if custom else ("function", "arguments")
                    held = call.setdefault(kind, {part: ""})
                    held[part] += text
        if not calls:
            return {}
        if self._reading.older:
            return {FUNCTION_CALL: next(iter(calls.values()))["function"]}
        return {TOOL_CALLS: list(calls.values())}
