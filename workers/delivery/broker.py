"""Celery's way to Redis, alone or behind Sentinels."""

from __future__ import annotations

from typing import Any

import redis
from celery.utils.log import get_logger
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, SentinelChannel, SentinelTransport, Transport

logger = get_logger(__name__)


class Steady:
    """Says that a lost connection is lost, and leaves out queues that are not to be consumed now.

    When Redis goes away, kombu closes its channels twice. The second time, or where a doorbell is
    acked in between, there is nothing left to connect with, which is an AttributeError in kombu,
    and the end of the worker.
    """

    connection: Any
    paused: frozenset[str] = frozenset()

    @property
    def active_queues(self) -> list[str]:
        """Queues whose messages are taken just now."""
        return [queue for queue in super().active_queues if queue not in self.paused]  # type: ignore[misc]

    def pause(self, queues: frozenset[str]) -> None:
        """Take no message of these queues but one that is on the way already.

        Cancelling their consumers would do so too, but taking them up again asks Redis several times.
        """
        self.paused = queues
        self._update_queue_cycle()  # type: ignore[attr-defined]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a bell back; one that a lost connection holds goes back when that is made anew."""
        try:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[misc]
        except (redis.ConnectionError, redis.TimeoutError) as error:
            logger.warning("A doorbell goes back when Redis answers again: %s", error)

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        parameters = super()._connparams(asynchronous)  # type: ignore[misc]
        # As in `penstock.transport.store.connection`: an answer to it may be taken for a ping's.
        return {**parameters, "driver_info": None}


class SteadyChannel(Steady, Channel):
    """kombu's channel to one Redis."""


class SteadySentinelChannel(Steady, SentinelChannel):
    """kombu's channel to whoever the Sentinels name."""


class SteadyTransport(Transport):
    """kombu's transport with our channel."""

    Channel = SteadyChannel


class SteadySentinelTransport(SentinelTransport):
    """The same behind Sentinels."""

    Channel = SteadySentinelChannel


def install() -> None:
    """Have `redis://`, `rediss://` and `sentinel://` mean our transports."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{SteadyTransport.__name__}"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:{SteadySentinelTransport.__name__}"
