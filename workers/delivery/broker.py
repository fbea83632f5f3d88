"""Celery's way to Redis, alone or behind Sentinels."""

from __future__ import annotations

from queue import Empty
from typing import Any

import redis
from celery.utils.log import get_logger
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import (
    Channel,
    SentinelChannel,
    SentinelTransport,
    Transport,
    get_redis_error_classes,
)
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from penstock.transport.store.clients import CheckedRedis
from workers.delivery.messages import ForeignMessage, accepted, dropped, is_doorbell

logger = get_logger(__name__)

_CONNECTION_ERRORS, CHANNEL_ERRORS = get_redis_error_classes()
OUTAGES: tuple[type[Exception], ...] = (*_CONNECTION_ERRORS, redis.RedisError)
"""What Celery and kombu take for a lost connection: Redis's error replies, too.

A server that was demoted, is full or short of replicas, is loading, or has changed our permissions
answers, but is of as little use as one that is away; and it comes back as well.
"""


class SteadyChannel(Channel):
    """kombu's channel to one Redis, which bears Redis's absence, its error replies, and foreign messages.

    It leaves out queues that are not to be consumed now.

    When Redis goes away, kombu closes its channels twice. The second time, or if a doorbell is
    acked in between, there is nothing left to connect with, which is an AttributeError in kombu,
    and the end of the worker.
    """

    connection: Any
    paused: frozenset[str] = frozenset()
    fault: Exception | None = None
    """The error reply to an ack or a reject. Its bell counts as unacked until the channel is closed,
    so the consumer has to make a new one."""

    @property
    def active_queues(self) -> list[str]:
        """Queues whose messages are taken just now."""
        return [queue for queue in super().active_queues if queue not in self.paused]

    def pause(self, queues: frozenset[str]) -> None:
        """Take no message of these queues but one that is on the way already.

        Cancelling their consumers would do so too, but taking them up again asks Redis several times.
        """
        self.paused = queues
        self._update_queue_cycle()

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Forget a bell.

        :raises redis.RedisError: Redis did not take it; the bell rings again.
        """
        try:
            super().basic_ack(delivery_tag, multiple)
        except redis.RedisError as error:
            self.fault = error
            raise

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a bell back; one that a lost connection holds goes back when that is made again."""
        try:
            super().basic_reject(delivery_tag, requeue)
        except redis.RedisError as error:
            self.fault = error
            logger.warning("A doorbell goes back when Redis answers again: %s", error)

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver what has come; the message is off its list by now, whatever it is."""
        return self._sift(super()._brpop_read, **options)

    def _receive_one(self, c: Any) -> Any:
        """Deliver what was published; remote control comes this way."""
        return self._sift(super()._receive_one, c)

    def _handle_message(self, client: Any, r: Any) -> dict[str, Any]:
        """Take apart what was published; what kombu would log with a traceback is foreign.

        :raises ForeignMessage: it is no JSON, or makes an object that there is not.
        """
        payload: dict[str, Any] = super()._handle_message(client, r)
        if payload["type"].endswith(b"message") and payload["data"]:
            try:
                loads(bytes_to_str(payload["data"]))
            except (TypeError, ValueError) as error:
                raise ForeignMessage(repr(error)) from error
        return payload

    def _sift(self, read: Any, *args: Any, **options: Any) -> Any:
        self.connection.delivering = False
        try:
            return read(*args, **options)
        except ForeignMessage as why:
            dropped.note(why)
        except (*_CONNECTION_ERRORS, redis.RedisError, Empty) as error:
            if not isinstance(error, KeyError) or self.connection.delivering:
                raise
            dropped.note(repr(error))
        except Exception as error:
            # Not UTF-8, no JSON, too deep, a body that cannot be read, a reply of another shape.
            if self.connection.delivering:
                raise
            dropped.note(repr(error))
        return True

    def _get_client(self) -> Any:
        """Return the class of Celery's clients: one that checks replies, as our own do."""
        super()._get_client()  # it looks at redis-py's version
        return CheckedRedis

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        # As in `penstock.transport.store.connection`: an answer to it may be taken for a ping's, and
        # shapes of replies are those of RESP2.
        return {**parameters, "driver_info": None, "protocol": 2}


class SteadySentinelChannel(SteadyChannel, SentinelChannel):
    """kombu's channel to the master that the Sentinels name."""


class SteadyTransport(Transport):
    """kombu's transport with our channel.

    It delivers doorbells, and of all else what has the shape of a message.
    """

    Channel = SteadyChannel

    connection_errors = OUTAGES
    channel_errors = CHANNEL_ERRORS
    delivering = False
    """Whether the message under way is a doorbell: an error is not the message's fault then."""

    def _deliver(self, message: Any, queue: str) -> None:
        message = accepted(message, queue)
        self.delivering = is_doorbell(message)
        super()._deliver(message, queue)


class SteadySentinelTransport(SteadyTransport, SentinelTransport):
    """The same behind Sentinels."""

    Channel = SteadySentinelChannel


def install() -> None:
    """Have `redis://`, `rediss://` and `sentinel://` mean our transports."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{SteadyTransport.__name__}"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:{SteadySentinelTransport.__name__}"
