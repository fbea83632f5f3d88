"""The lines of a batch: what is read, and what is written."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.openai.batches.store import Batch, Row

MOST_LINES: Final = 50_000
MOST_ERRORS: Final = 100
MOST_CUSTOM_ID: Final = 512
"""Characters."""
MODEL_ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)


class Line(msgspec.Struct, frozen=True):
    """One request. `number` counts from 0."""

    number: int
    custom_id: str
    body: dict[str, Any]


def lines(file: IO[bytes], most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, numbered from 0, and close the file at their end.

    Of a line over `most_bytes`, one byte more than these; the rest is skipped.
    """
    number = 0
    with file:
        while raw := file.readline(most_bytes + 1):
            rest = raw
            while len(rest) > most_bytes and not rest.endswith(b"\n"):
                rest = file.readline(most_bytes + 1)
            if raw.strip():
                yield number, raw
                number += 1


def parse(number: int, raw: bytes, endpoint: str, most_bytes: int) -> Line:
    """Return a line.

    :raises ValueError: it is not a request to this endpoint; the message names the reason.
    """
    if len(raw) > most_bytes:
        raise ValueError(f"longer than {most_bytes} bytes")
    parsed: object = parse_json(raw)
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  one kind of error for a bad line
    line_ = cast("dict[str, Any]", parsed)
    custom_id, body = line_.get("custom_id"), line_.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id: a string is needed")
    if len(custom_id) > MOST_CUSTOM_ID:
        raise ValueError(f"custom_id: longer than {MOST_CUSTOM_ID} characters")
    if line_.get("method") != "POST":
        raise ValueError("method: must be POST")
    if line_.get("url") != endpoint:
        raise ValueError(f"url: must be the batch's endpoint, {endpoint}")
    if not isinstance(body, dict):
        raise ValueError("body: an object with a model is needed")  # noqa: TRY004  as above
    asked = cast("dict[str, Any]", body)
    if not isinstance(asked.get("model"), str):
        raise ValueError("body: an object with a model is needed")  # noqa: TRY004  as above
    if asked.get("stream") or asked.get("background"):
        raise ValueError("body: stream and background are not for batches")
    return Line(number, custom_id, asked)


def faults(file: IO[bytes], endpoint: str, most_bytes: int) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of lines and their errors in OpenAI's shape; reading ends at `MOST_LINES`."""
    problems: list[dict[str, Any]] = []
    custom_ids: set[str] = set()
    total = 0

    def add(code: str, message: str, line: int | None) -> None:
        if len(problems) < MOST_ERRORS:
            problems.append({"code": code, "message": message, "line": line, "param": None})

    for number, raw in lines(file, most_bytes):
        total += 1
        if total > MOST_LINES:
            problems.clear()
            add("too_many_lines", f"The input file has more than {MOST_LINES} lines", None)
            break
        try:
            line = parse(number, raw, endpoint, most_bytes)
        except ValueError as error:
            add("invalid_request", str(error), number + 1)
            continue
        if line.custom_id in custom_ids:
            add("duplicate_custom_id", f"custom_id {line.custom_id!r} is there twice", number + 1)
        custom_ids.add(line.custom_id)
    if not total:
        add("empty_file", "The input file has no line", None)
    return total, problems


def output_line(batch: Batch, row: Row) -> bytes:
    """Return a line of the output file or the error file."""
    response = {"status_code": row.status, "request_id": row.request_id, "body": row.body}
    written = {
        "id": _request_id(batch, row.line),
        "custom_id": row.custom_id,
        "response": response,
        "error": None,
    }
    return msgspec.json.encode(written) + b"\n"


def expired_line(batch: Batch, line: Line) -> bytes:
    """Return the error of a line that the batch had no time for."""
    error = {"code": "batch_expired", "message": "The batch expired before this line was run."}
    written = {
        "id": _request_id(batch, line.number),
        "custom_id": line.custom_id,
        "response": None,
        "error": error,
    }
    return msgspec.json.encode(written) + b"\n"


def _request_id(batch: Batch, line: int) -> str:
    return "batch_req_" + hashlib.sha256(f"{batch.id}\0{line}".encode()).hexdigest()[:32]
