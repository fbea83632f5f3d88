"""The log of a process, as text lines or as JSON (`settings.log_format`).

A JSON line has `time` (UTC), `level`, `logger`, `message`, `exception` if there is one, and its
context: the worker's id, the current request, job and queue (`about`), and what the call passes
in `extra={"fields": {...}}`.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.redaction import Redaction, redacted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from penstock.settings import Settings

TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_SERVER: Final = ("uvicorn", "uvicorn.access", "uvicorn.error")

_at_hand: ContextVar[Mapping[str, str]] = ContextVar("penstock_log_fields")
_of_process: Final[dict[str, str]] = {}
"""Written by the main thread while the process starts."""
_BREAKS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that end a line, or that a terminal obeys."""
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def identify(**fields: str) -> None:
    """Add fields to every further JSON line of this process."""
    _of_process.update(fields)


@contextmanager
def about(**fields: str) -> Generator[None]:
    """Add fields to the JSON lines of this thread or task while the block runs."""
    token = _at_hand.set({**_at_hand.get({}), **{k: v for k, v in fields.items() if v}})
    try:
        yield
    finally:
        _at_hand.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; values that cannot be encoded are written as text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_of_process,
            **_at_hand.get({}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = record.stack_info
        return _encoder.encode(line).decode("utf-8", "replace")


class OneLine(logging.Formatter):
    """Escapes what would end a message's line, so that no text of others can forge a line.

    Tracebacks keep their lines.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the inner formatter's line."""
        message = record.getMessage()
        escaped = _BREAKS.sub(lambda found: ascii(found[0])[1:-1], message)
        if escaped != message and record.name != "uvicorn.access":  # it has escaped its own
            record = copy(record)
            record.msg, record.args = escaped, None
        return self._inner.format(record)


def adopt(handlers: Iterable[logging.Handler], settings: Settings) -> None:
    """Make existing handlers redact secrets, keep to lines, and write JSON if the settings say so."""
    for handler in handlers:
        _redact(handler)
        if settings.log_format == "json":
            handler.setFormatter(JsonFormatter())
        elif not isinstance(handler.formatter, OneLine):
            handler.setFormatter(OneLine(handler.formatter or logging.Formatter()))


def _redact(filterer: logging.Filterer) -> None:
    if not any(isinstance(filter_, Redaction) for filter_ in filterer.filters):
        filterer.addFilter(Redaction())


def configure_logging(settings: Settings, level: int = logging.INFO) -> None:
    """Send Penstock's log to stderr, unless the process has configured logging already.

    With JSON, the lines of the server and of all libraries are JSON too. Secrets in URLs are
    redacted everywhere, in the server's access log too, however it was configured.
    """
    for name in _SERVER:
        server = logging.getLogger(name)
        _redact(server)  # a handler may be added later, or belong to another logger
        adopt(server.handlers, settings)
    logger = logging.getLogger("penstock")
    if logger.handlers or logging.getLogger().handlers:
        for handler in (*logger.handlers, *logging.getLogger().handlers):
            _redact(handler)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(TEXT))
    adopt([handler], settings)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    if settings.log_format == "json":
        logging.getLogger().addHandler(handler)
