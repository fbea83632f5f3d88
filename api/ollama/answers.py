"""An answer as Ollama writes it: lines of JSON, the last of which has the counts; or one object."""

from __future__ import annotations

import time
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.streaming import FramedResponse
from api.ollama.errors import error_object
from api.openai.chat.chunks import encode
from api.parsing.call_arguments import as_object
from api.parsing.deltas import CallArguments, CallBegin, Content, Thought
from penstock.contract.events import Finished, FinishReason, Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from api.jobs.generation import Generation
    from api.openai.chat.tools import Reading
    from penstock.errors import PenstockError

Json = dict[str, Any]

MEDIA_TYPE: Final = "application/x-ndjson"
NANOSECONDS: Final = 1_000_000_000


def now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Piece:
    """What a line of the stream, or the whole answer, adds to the text."""

    def __init__(self) -> None:
        self.content = ""
        self.thinking = ""
        self.calls: list[Json] = []

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.content or self.thinking or self.calls)

    def add(self, other: Piece) -> None:
        """Append another piece."""
        self.content += other.content
        self.thinking += other.thinking
        self.calls += other.calls


def as_message(piece: Piece) -> Json:
    """Return the member of `/api/chat`."""
    message: Json = {"role": "assistant", "content": piece.content}
    if piece.thinking:
        message["thinking"] = piece.thinking
    if piece.calls:
        message["tool_calls"] = piece.calls
    return {"message": message}


def as_response(piece: Piece) -> Json:
    """Return the members of `/api/generate`."""
    return {
        "response": piece.content,
        **({"thinking": piece.thinking} if piece.thinking else {}),
    }


class AnswerReader:
    """Parses the events of one answer into pieces. A call is written once it is whole."""

    def __init__(self, reading: Reading, job_id: str) -> None:
        self._reading = reading
        self._job_id = job_id
        self._parser = reading.parser()
        self._call: Json | None = None
        self._arguments = ""
        self._began_s = time.monotonic()
        self._first_s: float | None = None

    def piece(self, event: Tokens | Finished) -> Piece:
        """Return what an event adds."""
        if self._first_s is None:
            self._first_s = time.monotonic()
        piece = Piece()
        deltas = self._parser.push(event.text)
        if isinstance(event, Finished):
            deltas = [*deltas, *self._parser.finish()]
        for delta in deltas:
            match delta:
                case Content(text):
                    piece.content += text
                case Thought(text):
                    piece.thinking += text if self._reading.show_reasoning else ""
                case CallBegin(index, name):
                    self._close_call(piece)
                    self._call = {
                        "id": self._reading.call_id(self._job_id, index),
                        "function": {"index": index, "name": name},
                    }
                case CallArguments(_, text):
                    self._arguments += text
        if isinstance(event, Finished):
            self._close_call(piece)
        return piece

    def end(self, event: Finished) -> Json:
        """Return the members of the last line: why it ended, and counts and times (ns)."""
        end_s = time.monotonic()
        first_s = self._first_s or end_s
        usage = event.usage
        return {
            "done": True,
            "done_reason": "length" if event.reason is FinishReason.LENGTH else "stop",
            "total_duration": int((end_s - self._began_s) * NANOSECONDS),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int((first_s - self._began_s) * NANOSECONDS),
            "eval_count": usage.completion_tokens,
            "eval_duration": int((end_s - first_s) * NANOSECONDS),
        }

    def _close_call(self, piece: Piece) -> None:
        if self._call is None:
            return
        self._call["function"]["arguments"] = as_object(self._arguments)
        piece.calls.append(self._call)
        self._call, self._arguments = None, ""


async def answer(
    request: Request,
    generation: Generation,
    reading: Reading,
    *,
    model: str,
    stream: bool | None,
    members: Callable[[Piece], Json],
) -> Response:
    """Return the response: lines as they come (Ollama's default), or one object.

    :raises PenstockError: the queue refuses, or the job fails before its first line.
    """
    reader = AnswerReader(reading, generation.jobs[0].id)
    if stream is not False:
        return FramedResponse(
            _lines(generation, reader, partial(_object, model, members)),
            last=_error_line,
            media_type=MEDIA_TYPE,
            headers=generation.headers,
        )
    whole = await until_disconnect(
        request.receive, _whole(generation, reader, partial(_object, model, members))
    )
    return json_response(whole, headers=generation.headers)


def loaded(model: str, members: Callable[[Piece], Json]) -> Response:
    """Return the answer to a request without a text, which asks Ollama to load the model."""
    return json_response({**_object(model, members, Piece()), "done": True, "done_reason": "load"})


def _object(model: str, members: Callable[[Piece], Json], piece: Piece) -> Json:
    return {"model": model, "created_at": now(), **members(piece)}


async def _lines(
    generation: Generation, reader: AnswerReader, make: Callable[[Piece], Json]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(generation.events()) as events:
        async for item in events:
            if item is None:  # a line of no text: the client sees that the server lives
                yield _line({**make(Piece()), "done": False})
                continue
            piece = reader.piece(item[1])
            if isinstance(item[1], Finished):
                if piece:
                    yield _line({**make(piece), "done": False})
                yield _line({**make(Piece()), **reader.end(item[1])})
            elif piece:
                yield _line({**make(piece), "done": False})


async def _whole(
    generation: Generation, reader: AnswerReader, make: Callable[[Piece], Json]
) -> Json:
    total, last = Piece(), None
    async with aclosing(generation.events()) as events:
        async for item in events:
            if item is not None:
                last = item[1]
                total.add(reader.piece(last))
    assert isinstance(last, Finished)  # noqa: S101  a generation ends so or raises
    return {**make(total), **reader.end(last)}


async def _error_line(error: PenstockError) -> bytes:
    """Return the line that ends a stream which has begun and cannot be finished."""
    return _line(error_object(error.message, error.code))


def _line(value: Json) -> bytes:
    return encode(value) + b"\n"
