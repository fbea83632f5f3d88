"""The object of a response and its events: a pure function of the pieces of its answer.

Because it is one, any API process can write the stream again from the journal, from any
`sequence_number` on, and a stored response can be streamed like a running one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.openai.chat.logprobs import entries
from api.openai.chat.tools import Reading
from api.openai.responses.output_item import CALL_EVENTS, OPEN, OutputItem
from api.parsing.deltas import CallArguments, CallBegin, Content, Thought

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.responses.output_item import Json
    from api.openai.responses.record import Ending, Piece, StoredResponse
    from api.parsing.deltas import Delta
    from penstock.contract.events import PositionLogprobs, Usage

FINAL_EVENTS: Final = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.failed",
}
PROMPT_CODES: Final = frozenset(
    {"bad_request", "context_length_exceeded", "invalid_parameter", "unsupported_feature"}
)
"""Our codes that are the prompt's fault; OpenAI's list of codes is closed."""
ITEM_NUMBER_DIGITS: Final = 2
"""An item's id ends with its place in the output, after its job's id."""


class ResponseBuilder:
    """Builds one response from its events, in order."""

    def __init__(self, stored: StoredResponse) -> None:
        self._stored = stored
        self._reading = Reading(**stored.reader)
        self._parser = self._reading.parser()
        self._next = 0
        self._output: list[OutputItem] = []
        self._logprobs: list[PositionLogprobs] = []
        """Those of text that the parser still holds back."""
        self._is_started = False
        self.status = "queued" if stored.background else OPEN
        self._ending: Ending | None = None

    @property
    def last_sequence(self) -> int:
        """The number of the last event; -1 before the first."""
        return self._next - 1

    def begin(self) -> list[Json]:
        """Return the events before anything has happened."""
        events = [self._event("response.created", response=self.response())]
        if self._stored.background:
            events.append(self._event("response.queued", response=self.response()))
        else:
            events += self._start()
        return events

    def _start(self) -> list[Json]:
        if self._is_started:
            return []
        self._is_started = True
        self.status = OPEN
        return [self._event("response.in_progress", response=self.response())]

    def piece(self, piece: Piece) -> list[Json]:
        """Return the events of one more piece of the answer."""
        events = self._start()
        was_thinking = self._parser.thinking
        self._logprobs += piece.logprobs
        for part in self._parser.push(piece.text, piece.tokens):
            events += self._part(part)
        if was_thinking or self._parser.thinking:
            self._logprobs.clear()  # they are not of the message
        return events

    def end(self, ending: Ending) -> list[Json]:
        """Return the last events; the pieces of `ending` have been seen."""
        events = self._start()
        for part in self._parser.finish():
            events += self._part(part)
        if self._logprobs and self._output and self._output[-1].kind == "message":
            events += self._text("message", "msg", "")
        is_complete = ending.status == "completed"
        if self._output:
            events += self._close(self._output[-1], "completed" if is_complete else "incomplete")
        elif is_complete or ending.status == "incomplete":
            # An empty answer is a message too.
            events += self._open(OutputItem("message", self._id("msg")))
            events += self._close(self._output[-1], ending.status)
        self.status, self._ending = ending.status, ending
        events.append(self._event(FINAL_EVENTS[ending.status], response=self.response()))
        return events

    # -- items

    def _part(self, part: Delta) -> list[Json]:
        match part:
            case Content(text):
                return self._text("message", "msg", text)
            case Thought(text):
                return self._text("reasoning", "rs", text)
            case CallBegin(index, name):
                self._logprobs.clear()
                return self._open(self._called(index, name))
            case CallArguments(_, text):
                self._logprobs.clear()
                item = self._output[-1]
                item.text += text
                return [self._of_item(f"{CALL_EVENTS[item.kind]}.delta", delta=text)]

    def _called(self, index: int, name: str) -> OutputItem:
        call_id = self._reading.call_id(self._stored.job_id, index)
        custom = name in self._reading.custom
        kind, prefix = ("custom_tool_call", "ctc") if custom else ("function_call", "fc")
        namespace, name = self._stored.namespaces.get(name, ("", name))
        return OutputItem(kind, self._id(prefix), call_id=call_id, name=name, namespace=namespace)

    def _text(self, kind: str, prefix: str, text: str) -> list[Json]:
        events: list[Json] = []
        if not self._output or self._output[-1].kind != kind:
            events += self._open(OutputItem(kind, self._id(prefix)))
        item = self._output[-1]
        item.text += text
        if kind == "message":
            shown = entries(self._logprobs)
            self._logprobs.clear()
            item.logprobs += shown
            extra = {"delta": text, "logprobs": shown}
            return [*events, self._of_part("response.output_text.delta", **extra)]
        return [*events, self._of_part("response.reasoning_text.delta", delta=text)]

    def _open(self, item: OutputItem) -> list[Json]:
        events = self._close(self._output[-1], "completed") if self._output else []
        self._output.append(item)
        added = self._event(
            "response.output_item.added",
            output_index=len(self._output) - 1,
            item=item.object(OPEN, opened=True),
        )
        events.append(added)
        if item.kind not in CALL_EVENTS:
            events.append(self._of_part("response.content_part.added", part=item.part()))
        return events

    def _close(self, item: OutputItem, status: str) -> list[Json]:
        if item.status != OPEN:
            return []
        item.status = status
        events: list[Json] = []
        if item.kind in CALL_EVENTS:
            events.append(self._of_item(f"{CALL_EVENTS[item.kind]}.done", **item.called()))
        else:
            if item.kind == "message":
                done = {"text": item.text, "logprobs": item.logprobs}
                events.append(self._of_part("response.output_text.done", **done))
            else:
                events.append(self._of_part("response.reasoning_text.done", text=item.text))
            events.append(self._of_part("response.content_part.done", part=item.part()))
        position = len(self._output) - 1
        finished = {"output_index": position, "item": item.object(status)}
        events.append(self._event("response.output_item.done", **finished))
        return events

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._stored.job_id}{len(self._output):0{ITEM_NUMBER_DIGITS}x}"

    # -- events

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._next, **fields}
        self._next += 1
        return event

    def _of_item(self, kind: str, **fields: Any) -> Json:
        position = len(self._output) - 1
        item_id = self._output[position].id
        return self._event(kind, item_id=item_id, output_index=position, **fields)

    def _of_part(self, kind: str, **fields: Any) -> Json:
        return self._of_item(kind, content_index=0, **fields)

    # -- the object

    def output(self) -> list[Json]:
        """Return the items of the answer so far."""
        return [item.object(item.status) for item in self._output]

    def response(self) -> Json:
        """Return the response's current state."""
        stored, ending = self._stored, self._ending
        failed = self.status == "failed" and ending is not None
        incomplete = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "id": stored.id,
            "object": "response",
            "created_at": stored.created_s,
            "completed_at": ending.ended_s if ending and self.status == "completed" else None,
            "status": self.status,
            "background": stored.background,
            "error": _error(ending) if failed and ending else None,
            "incomplete_details": incomplete,
            **stored.asked,
            **({"warnings": list(stored.warnings)} if stored.warnings else {}),
            "output": self.output(),
            "previous_response_id": stored.ancestors[-1] if stored.ancestors else None,
            "usage": self._usage(ending.usage) if ending and ending.usage else None,
        }

    def _usage(self, usage: Usage) -> Json:
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._parser.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


def _error(ending: Ending) -> Json:
    code = "invalid_prompt" if ending.error_code in PROMPT_CODES else "server_error"
    return {"code": code, "message": ending.error_message}


def finished(stored: StoredResponse, ending: Ending) -> tuple[ResponseBuilder, list[Json]]:
    """Return a response that has ended, and all of its events."""
    builder = ResponseBuilder(stored)
    events = builder.begin()
    for piece in ending.pieces:
        events += builder.piece(piece)
    events += builder.end(ending)
    return builder, events


def output_items(stored: StoredResponse) -> Sequence[Json]:
    """Return the items that a response has put out, for those that go on from it."""
    if stored.ending is None:
        return []
    return finished(stored, stored.ending)[0].output()
