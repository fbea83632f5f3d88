"""Calls and results of a conversation, in the form that a model's chat template expects.

Clients send OpenAI's form. Templates differ: some insert a call's arguments as text, others read
them as an object; some write one call a message; some require ids of a certain form. The rendering
of a small conversation shows which.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.models.structured.calls.json_calls import JSON_CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.models.text.dialect import ToolParser

Message = dict[str, Any]

_MISTRAL_ID: Final = re.compile(r"[A-Za-z0-9]{9}")
_ID: Final = "aB3dE6gH9"
"""An id that every template accepts."""

_KEY: Final = "penstock_key"
_VALUE: Final = "penstock value"
_FIRST: Final = "penstock_first"
_SECOND: Final = "penstock_second"


@dataclass(frozen=True, slots=True)
class History:
    """How a template takes calls.

    `as_text`: arguments are JSON text, not objects. `one_call`: a message has at most one call.
    `joins_thoughts`: a message with a call has content or reasoning, not both. `ids` names the
    dialect whose ids have a special form, `as_content` the one whose calls are written into the
    content because the template omits calls.
    """

    as_text: bool = False
    one_call: bool = False
    joins_thoughts: bool = False
    as_content: str = ""
    ids: str = ""

    @classmethod
    def of(
        cls, dialect: ToolParser, render: Callable[[Sequence[Message], Sequence[Any]], str | None]
    ) -> History:
        """Return a template's form; `render` returns None if it refuses messages and tools."""

        def shown(*calls: Message) -> str:
            return render(_conversation(calls), [_tool(_FIRST), _tool(_SECOND)]) or ""

        as_object = shown(_call(_FIRST, {_KEY: _VALUE}))
        as_text = shown(_call(_FIRST, json.dumps({_KEY: _VALUE})))
        is_text = not _is_good(as_object) and _is_good(as_text)
        arguments: Any = "{}" if is_text else {}
        both = shown(_call(_FIRST, arguments), _call(_SECOND, arguments, f"{_ID[:-1]}8"))
        alone = shown(_call(_FIRST, arguments))
        # A template may list the tools as well, so that both names appear in its text.
        writes_second = both.count(_SECOND) > alone.count(_SECOND)
        return cls(
            as_text=is_text,
            one_call=alone.count(_FIRST) > alone.count(_SECOND) and not writes_second,
            joins_thoughts=dialect == "harmony",
            as_content=dialect if alone and _leaves_out(as_object, as_text) else "",
            ids=dialect if dialect in ("kimi_k2", "mistral", "mistral_args") else "",
        )

    def prepared(self, messages: Sequence[Message]) -> list[Message]:
        """Return flattened messages in the template's form."""
        names = self._names(messages)
        prepared = [self._message(message, names) for message in messages]
        return _in_order(prepared, one_by_one=self.one_call)

    def _names(self, messages: Sequence[Message]) -> dict[str, str]:
        """Return the ids that replace the client's in calls and their results."""
        if not self.ids:
            return {}
        names: dict[str, str] = {}
        for call in (call for message in messages for call in _calls(message)):
            given = str(call.get("id") or "")
            if self.ids == "kimi_k2":
                names[given] = f"functions.{_function(call).get('name')}:{len(names)}"
            elif not _MISTRAL_ID.fullmatch(given):
                names[given] = hashlib.sha256(given.encode(errors="replace")).hexdigest()[:9]
        return names

    def _message(self, message: Message, names: dict[str, str]) -> Message:
        prepared = dict(message)
        calls = _calls(message)
        if calls:
            prepared["tool_calls"] = [self._call(call, names) for call in calls]
        if calls and self.as_content in JSON_CALLS:
            written = JSON_CALLS[self.as_content].written([_written(call) for call in calls])
            prepared["content"] = f"{prepared.get('content') or ''}{written}"
        answered = prepared.get("tool_call_id")
        if isinstance(answered, str) and answered in names:
            prepared["tool_call_id"] = names[answered]
        thought = prepared.get("reasoning_content")
        if self.joins_thoughts and calls and thought and prepared.get("content"):
            prepared["reasoning_content"] = f"{thought}\n\n{prepared['content']}"
            prepared["content"] = ""
        return prepared

    def _call(self, call: Message, names: dict[str, str]) -> Message:
        function = _function(call)
        arguments = function.get("arguments")
        if self.as_text and not isinstance(arguments, str):
            function = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
        prepared = {**call, "function": function}
        given = str(call.get("id") or "")
        if given in names:
            prepared["id"] = names[given]
        return prepared


def _in_order(messages: Sequence[Message], *, one_by_one: bool) -> list[Message]:
    """Return messages with results in the order of their calls: many templates show no ids.

    With `one_by_one` each call is a separate message, followed by its results.
    """
    ordered: list[Message] = []
    position = 0
    while position < len(messages):
        message, position = messages[position], position + 1
        calls = _calls(message)
        if not calls:
            ordered.append(message)
            continue
        results: list[Message] = []
        while position < len(messages) and messages[position].get("role") == "tool":
            results.append(messages[position])
            position += 1
        if not one_by_one:
            ordered.append(message)
        for index, call in enumerate(calls):
            if one_by_one:
                alone = message if not index else {"role": message["role"], "content": ""}
                ordered.append({**alone, "tool_calls": [call]})
            ordered += [
                result for result in results if result.get("tool_call_id") == call.get("id")
            ]
        call_ids = {call.get("id") for call in calls}
        ordered += [result for result in results if result.get("tool_call_id") not in call_ids]
    return ordered


def _leaves_out(*texts: str) -> bool:
    return not any(_VALUE in text for text in texts)


def _written(call: Message) -> tuple[str, str]:
    function = _function(call)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return str(function.get("name")), arguments


def _is_good(text: str) -> bool:
    """Return whether a text shows arguments as JSON, quoted once, and not as a Python dict."""
    return _VALUE in text and f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text


def _calls(message: Message) -> list[Message]:
    calls = message.get("tool_calls")
    return cast("list[Message]", calls) if isinstance(calls, list) else []


def _function(call: Message) -> Message:
    function: Any = call.get("function")
    return cast("Message", function) if isinstance(function, dict) else {}


def _conversation(calls: Sequence[Message]) -> list[Message]:
    results = [
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "name": call["function"]["name"],
            "content": "1",
        }
        for call in calls
    ]
    question = {"role": "user", "content": "?"}
    return [question, {"role": "assistant", "content": "", "tool_calls": list(calls)}, *results]


def _call(name: str, arguments: Any, call_id: str = _ID) -> Message:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(name: str) -> Message:
    properties = {"penstock_parameter": {"type": "string", "description": "-"}}
    parameters: Message = {"type": "object", "properties": properties, "required": []}
    function: Message = {"name": name, "description": "-", "parameters": parameters}
    return {"type": "function", "function": function}
