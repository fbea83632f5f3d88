"""Redacts secrets in URLs, in logs and messages.

A FastChat worker has its registration token in its controller's path (`/r/<token>/...`), Redis's
URL may have a password, and some clients put keys into query strings, where they do not belong.
"""

from __future__ import annotations

import logging
import re
from typing import Final

HIDDEN: Final = "***"
_SECRETS: Final = (
    (re.compile(r"(/r/)[^/\s?#\"'\\]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(://)[^/\s\"']+@"), rf"\1{HIDDEN}@"),
    (
        re.compile(r"([?&][\w.-]*(?:key|token|secret|password)=)[^&#\s\"'\\]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)
_plain = logging.Formatter()


def redacted(text: str) -> str:
    """Return a text with the secrets in its URLs and paths replaced."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class Redaction(logging.Filter):
    """Redacts every record. On a logger, it applies only to that logger's own records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the message, or the arguments if a formatter needs them separately."""
        if isinstance(record.args, tuple) and all(isinstance(a, str | int) for a in record.args):
            # uvicorn's formatter of access lines reads the arguments by position.
            record.args = tuple(redacted(a) if isinstance(a, str) else a for a in record.args)
            record.msg = redacted(str(record.msg))
        else:
            message = record.getMessage()
            clean = redacted(message)
            if clean != message:
                record.msg, record.args = clean, ()
        if record.exc_info:
            traceback = record.exc_text or _plain.formatException(record.exc_info)
            if (clean := redacted(traceback)) != traceback:
                record.exc_text = clean
        return True
