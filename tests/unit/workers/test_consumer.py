"""What Celery says of an outage."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import redis
from celery.worker.request import logger
from kombu.message import Message

from workers.delivery.consumer import CalmAcks, Outage, PromptConsumer

if TYPE_CHECKING:
    import pytest


class GoneChannel:
    """A channel whose Redis is away."""

    no_ack_consumers = None

    def basic_ack(self, *_: object, **__: object) -> None:
        raise redis.ConnectionError("nobody is there")


def test_an_ack_that_an_outage_cuts_off_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    calm = CalmAcks()
    logger.addFilter(calm)
    try:
        message = Message(channel=GoneChannel(), delivery_tag="tag")
        message.ack_log_error(logger, (redis.ConnectionError,))
    finally:
        logger.removeFilter(calm)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "ConnectionError" in record.getMessage()
    assert "Traceback" not in caplog.text


def test_what_a_lost_connection_leaves_is_freed_once_the_next_one_holds() -> None:
    class Left:
        def __init__(self) -> None:
            self.itself = self

    consumer = object.__new__(PromptConsumer)
    consumer._outage = Outage()
    consumer._outage.begin()
    gc.disable()
    try:
        left = weakref.ref(Left())
        consumer._settled()
        assert left() is None
    finally:
        gc.enable()
