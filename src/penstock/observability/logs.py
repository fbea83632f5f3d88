"""The log of a process, as lines for people or as JSON for machines (`settings.log_format`).

A JSON line has `time` (UTC), `level`, `logger`, `message`, `exception` where there is one, and what
the line is about: a worker's id, the request, job and queue at hand (`about`), and whatever the
call says itself with `extra={"fields": {...}}`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from contextvars import ContextVar
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
"""Written while the process starts, by its main thread."""
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def identify(**fields: str) -> None:
    """Have every further JSON line of this process say these."""
    _of_process.update(fields)


@contextmanager
def about(**fields: str) -> Generator[None]:
    """Have the JSON lines of this thread or task say these, until the block is left."""
    token = _at_hand.set({**_at_hand.get({}), **{k: v for k, v in fields.items() if v}})
    try:
        yield
    finally:
        _at_hand.reset(token)


class JsonFormatter(logging.Formatter):
    """One line of JSON a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what cannot be encoded is written as text."""
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


def adopt(handlers: Iterable[logging.Handler], settings: Settings) -> None:
    """Have handlers write no secrets, and JSON where it is wanted, whoever made them."""
    for handler in handlers:
        _redact(handler)
        if settings.log_format == "json":
            handler.setFormatter(JsonFormatter())


def _redact(filterer: logging.Filterer) -> None:
    if not any(isinstance(known, Redaction) for known in filterer.filters):
        filterer.addFilter(Redaction())


def configure_logging(settings: Settings, level: int = logging.INFO) -> None:
    """Send Penstock's log to stderr, unless the process has arranged its logging already.

    With JSON, the server's lines and those of all other libraries are JSON too. Secrets in URLs
    are kept out of all of them, of the server's access log too, whoever has arranged it.
    """
    for name in _SERVER:
        server = logging.getLogger(name)
        _redact(server)  # a handler may be added later, or be another logger's
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
