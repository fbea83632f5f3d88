"""Celery's way to a Redis behind Sentinels."""

from __future__ import annotations

from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import SentinelChannel, SentinelTransport


class SteadyChannel(SentinelChannel):
    """Says that a lost connection is lost.

    When the master dies, kombu closes its channels twice. The second time there is nothing left
    to connect with, which is an AttributeError in kombu, and the end of the worker.
    """

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        return super()._connparams(asynchronous)


class SteadyTransport(SentinelTransport):
    """kombu's transport with our channel."""

    Channel = SteadyChannel


def install() -> None:
    """Have `sentinel://` mean our transport."""
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:{SteadyTransport.__name__}"
