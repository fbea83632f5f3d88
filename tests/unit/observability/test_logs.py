"""Lines of JSON: what they say, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from penstock.observability.logs import JsonFormatter, about, adopt
from penstock.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    logger = logging.getLogger("test.logs")
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.propagate = False
    yield text
    logger.removeHandler(handler)
    logger.propagate = True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n") if line]


def test_a_line_is_one_object_whatever_is_in_it(stream: io.StringIO):
    logger = logging.getLogger("test.logs")
    logger.warning('two\nlines, "quotes", \u2028 and %s', {"a": 1})
    (line,) = lines(stream)
    assert line["message"] == "two\nlines, \"quotes\", \u2028 and {'a': 1}"
    assert (line["level"], line["logger"]) == ("warning", "test.logs")
    assert line["time"].endswith("+00:00")


def test_an_exception_is_a_field(stream: io.StringIO):
    try:
        int("no")
    except ValueError:
        logging.getLogger("test.logs").exception("it failed")
    (line,) = lines(stream)
    assert line["exception"].endswith("base 10: 'no'")


def test_what_a_line_is_about_ends_with_its_block(stream: io.StringIO):
    logger = logging.getLogger("test.logs")
    with about(request_id="r", job_id=""):
        with about(job_id="j"):
            logger.error("inner", extra={"fields": {"status": 500, "odd": object}})
        logger.error("outer")
    logger.error("after")
    inner, outer, after = lines(stream)
    assert (inner["request_id"], inner["job_id"], inner["status"]) == ("r", "j", 500)
    assert inner["odd"] == str(object)
    assert outer["request_id"] == "r"
    assert "job_id" not in outer
    assert "request_id" not in after


FORGED = "tiny\n2026-01-01 INFO penstock admin logged in\r\x1b[2J\u2028x"


def test_a_text_line_is_one_line_whatever_is_in_it() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    adopt([handler], Settings())
    adopt([handler], Settings())
    logger = logging.getLogger("test.lines")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.error("no model %s", FORGED)
        try:
            int("no")
        except ValueError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    first, second, *traceback = text.getvalue().splitlines()
    assert first == ("no model tiny\\n2026-01-01 INFO penstock admin logged in\\r\\x1b[2J\\u2028x")
    assert second == "it failed"
    assert traceback[0].startswith("Traceback")
