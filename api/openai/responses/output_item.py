"""One item of a response's output: a message, reasoning, or a call."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

CALL_EVENTS: Final = {
    "custom_tool_call": "response.custom_tool_call_input",
    "function_call": "response.function_call_arguments",
}
"""The beginnings of the names of calls' own events, by the kinds of their items."""
OPEN: Final = "in_progress"


class OutputItem:
    """One item of the output while it grows."""

    def __init__(
        self, kind: str, item_id: str, *, call_id: str = "", name: str = "", namespace: str = ""
    ) -> None:
        self.kind = kind
        self.id = item_id
        self.status = OPEN
        self.text = ""
        self.name = name
        self.logprobs: list[Json] = []
        self._call_id = call_id
        self._namespace = namespace

    def part(self) -> Json:
        """Return its one part of content."""
        if self.kind == "message":
            return {
                "type": "output_text",
                "text": self.text,
                "annotations": [],
                "logprobs": list(self.logprobs),
            }
        return {"type": "reasoning_text", "text": self.text}

    def called(self) -> Json:
        """Return what the event of a whole call holds."""
        if self.kind == "custom_tool_call":
            return self._written()
        return {"name": self.name, **self._written()}

    def _written(self) -> Json:
        return {"input" if self.kind == "custom_tool_call" else "arguments": self.text}

    def object(self, status: str, *, opened: bool = False) -> Json:
        """Return OpenAI's object; `opened`: before it has any content."""
        head: Json = {"id": self.id, "type": self.kind, "status": status}
        if self.kind in CALL_EVENTS:
            if self._namespace:
                head["namespace"] = self._namespace
            return {**head, "call_id": self._call_id, "name": self.name, **self._written()}
        content = [] if opened else [self.part()]
        if self.kind == "message":
            return {**head, "role": "assistant", "content": content}
        return {**head, "summary": [], "content": content}
