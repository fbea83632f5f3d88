"""Secrets in URLs stay out of logs, whoever writes them."""

from __future__ import annotations

import io
import logging
import logging.config
from typing import TYPE_CHECKING, Any

import pytest
from uvicorn.config import LOGGING_CONFIG

from penstock import settings as penstock_settings
from penstock.errors import BadSettings
from penstock.observability.logs import JsonFormatter, configure_logging
from penstock.redaction import Redaction, redacted
from penstock.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/r/s3cret/register_worker", "/r/***/register_worker"),
        ("/r/s3cret", "/r/***"),
        ("POST http://here:8000/r/s%2Fcret/receive_heart_beat", "POST http://here:8000/r/***/receive_heart_beat"),
        ("/prefix/r/s3cret/register_worker?x=1", "/prefix/r/***/register_worker?x=1"),
        ("redis://:s3cret@host:6379/0 and http://a:s3@cret@b/", "redis://***@host:6379/0 and http://***@b/"),
        ("/v1/models?api_key=s3cret&limit=2", "/v1/models?api_key=***&limit=2"),
        ("/v1/models?limit=2&Token=s3cret", "/v1/models?limit=2&Token=***"),
        ("/v1/models?access_token=s3cret HTTP/1.1", "/v1/models?access_token=*** HTTP/1.1"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("user@example.com asks for /responses/r", "user@example.com asks for /responses/r"),
    ],
)  # fmt: skip
def test_redacted(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.fixture
def server_log() -> Iterator[io.StringIO]:
    """uvicorn's logging as its command line arranges it, into a buffer."""
    names = ("uvicorn", "uvicorn.access", "uvicorn.error")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.handlers[:], one.filters[:], one.level, one.propagate) for one in loggers]
    logging.config.dictConfig(LOGGING_CONFIG)
    buffer = io.StringIO()
    for one in loggers:
        for handler in one.handlers:
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(buffer)
    yield buffer
    for one, (handlers, filters, level, propagate) in zip(loggers, before, strict=True):
        one.handlers, one.filters, one.propagate = handlers, filters, propagate
        one.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_servers_own_log(server_log: io.StringIO, form: Any) -> None:
    configure_logging(Settings(log_format=form))
    line = '%s - "%s %s HTTP/%s" %d'  # as uvicorn writes it
    path = "/r/s3cret/register_worker?token=s3cret"
    logging.getLogger("uvicorn.access").info(line, "10.0.0.1:5", "POST", path, "1.1", 403)
    try:
        int("http://host/r/s3cret/x")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("failed at %s", {"url": "redis://:s3cret@h"})
    written = server_log.getvalue()
    assert "s3cret" not in written
    assert "POST /r/***/register_worker?token=*** HTTP/1.1" in written
    assert "redis://***@h" in written
    assert "http://host/r/***/x" in written


def test_a_foreign_handler(server_log: io.StringIO) -> None:
    """gunicorn and `--log-config` add handlers of their own; uvicorn's logger redacts before."""
    configure_logging(Settings())
    other = logging.StreamHandler(server_log)
    other.setFormatter(JsonFormatter())
    logger = logging.getLogger("uvicorn.access")
    logger.addHandler(other)
    logger.info('%s - "%s"', "10.0.0.1:5", "/r/s3cret/register_worker")
    assert "s3cret" not in server_log.getvalue()


def test_a_record_is_redacted_once() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%d%% of %s", (5, "/r/a/b"), None)
    for _ in range(2):
        assert Redaction().filter(record)
    assert record.getMessage() == "5% of /r/***/b"


def test_a_bad_setting_keeps_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "http://:s3cret@host")
    penstock_settings.load.cache_clear()
    try:
        with pytest.raises(BadSettings, match="PENSTOCK_REDIS_URL") as caught:
            penstock_settings.load()
    finally:
        penstock_settings.load.cache_clear()
    assert "s3cret" not in str(caught.value)
