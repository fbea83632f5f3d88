"""An answer's text as Anthropic's blocks: whole, and as a stream of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.openai.chat.chunks import encode
from api.parsing.call_arguments import as_object
from api.parsing.deltas import CallArguments, CallBegin, Content, Thought
from penstock.contract.events import FinishReason, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.chat.tools import Reading
    from api.parsing.deltas import Delta
    from penstock.contract.events import Finished, Usage

Json = dict[str, Any]


def stop_of(
    event: Finished, calls: int, stop_sequences: Sequence[str], max_tokens: int | None = None
) -> Json:
    """Return why an answer ended, in Anthropic's words."""
    if event.reason is FinishReason.LENGTH:
        is_unlimited = max_tokens is None or event.usage.completion_tokens >= max_tokens
        reason = "max_tokens" if is_unlimited else "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}
    if isinstance(event.stop, str) and event.stop in stop_sequences:
        return {"stop_reason": "stop_sequence", "stop_sequence": event.stop}
    return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


def usage_object(usage: Usage) -> Json:
    """Return Anthropic's usage, which counts cached tokens apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def frame(kind: str, **fields: Any) -> bytes:
    """Return one event's frame."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))


class MessageWriter:
    """Writes one message: `event` for its events in order; `blocks` is what it has become."""

    def __init__(
        self,
        heading: Json,
        reading: Reading,
        job_id: str,
        stop_sequences: Sequence[str],
        *,
        max_tokens: int | None = None,
    ) -> None:
        """Write at most `max_tokens`, of which the context may have cut off some."""
        self.blocks: list[Json] = []
        self._heading = heading
        self._reading = reading
        self._job_id = job_id
        self._stop_sequences = stop_sequences
        self._max_tokens = max_tokens
        self._parser = reading.parser()
        self._arguments = ""
        self._is_open = False
        self._is_begun = False

    def begin(self, prompt_tokens: int) -> bytes:
        """Return the first frame; nothing the second time."""
        if self._is_begun:
            return b""
        self._is_begun = True
        usage = {"input_tokens": prompt_tokens, "output_tokens": 0}
        message: Json = {
            **self._heading,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return frame("message_start", message=message)

    def event(self, event: Tokens | Finished) -> bytes:
        """Return the frames of one event."""
        prompt_tokens = event.prompt_tokens if isinstance(event, Tokens) else None
        frames = self.begin(
            event.usage.prompt_tokens if not isinstance(event, Tokens) else prompt_tokens or 0
        )
        for delta in self._parser.push(event.text):
            frames += self._delta(delta)
        if isinstance(event, Tokens):
            return frames
        for delta in self._parser.finish():
            frames += self._delta(delta)
        frames += self._close()
        frames += frame("message_delta", delta=self.stop(event), usage=usage_object(event.usage))
        return frames + frame("message_stop")

    def stop(self, event: Finished) -> Json:
        """Return why the message ended."""
        return stop_of(event, self._parser.calls, self._stop_sequences, self._max_tokens)

    def message(self, event: Finished) -> Json:
        """Return the whole message; all of its events have been seen."""
        return {
            **self._heading,
            "content": self.blocks,
            **self.stop(event),
            "usage": usage_object(event.usage),
        }

    def _delta(self, delta: Delta) -> bytes:
        match delta:
            case Content(text):
                frames = self._enter("text", {"text": ""})
                self.blocks[-1]["text"] += text
                return frames + self._part(type="text_delta", text=text)
            case Thought(text):
                if not self._reading.show_reasoning:
                    return b""
                frames = self._enter("thinking", {"thinking": "", "signature": ""})
                self.blocks[-1]["thinking"] += text
                return frames + self._part(type="thinking_delta", thinking=text)
            case CallBegin(index, name):
                call_id = self._reading.call_id(self._job_id, index)
                frames = self._close()
                self._arguments = ""
                return frames + self._open("tool_use", {"id": call_id, "name": name, "input": {}})
            case CallArguments(_, text):
                self._arguments += text
                return self._part(type="input_json_delta", partial_json=text)

    def _enter(self, kind: str, content: Json) -> bytes:
        if self._is_open and self.blocks[-1]["type"] == kind:
            return b""
        return self._close() + self._open(kind, content)

    def _open(self, kind: str, content: Json) -> bytes:
        block = {"type": kind, **content}
        self._is_open = True
        self.blocks.append(block)
        return frame("content_block_start", index=len(self.blocks) - 1, content_block=block)

    def _part(self, **delta: Any) -> bytes:
        return frame("content_block_delta", index=len(self.blocks) - 1, delta=delta)

    def _close(self) -> bytes:
        if not self._is_open:
            return b""
        self._is_open = False
        block = self.blocks[-1]
        if block["type"] == "tool_use":
            block["input"] = as_object(self._arguments)
        frames = b""
        if block["type"] == "thinking":
            frames = self._part(type="signature_delta", signature="")
        return frames + frame("content_block_stop", index=len(self.blocks) - 1)
