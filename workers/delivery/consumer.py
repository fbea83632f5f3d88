"""Celery's consumer, back soon after an outage, and not to be ended by what Redis hands it."""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from typing import Any

import redis
from celery.exceptions import CPendingDeprecationWarning
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.common import ignore_errors
from vine import promise

from penstock import freed_memory
from workers.delivery.messages import dropped
from workers.delivery.tasks import DOORBELL

logger = get_logger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 2.0
_POLL_S = 0.1

SETTLED_S = 2.5
"""An outage is over when Celery has consumed for so long: an error reply comes within a second."""


class Outage(logging.Filter):
    """One outage of Redis as Celery's consumer sees it: a line at its start and one at its end.

    A filter of Celery's own logger, which would write a line at each attempt. Owned by the main
    thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since_s: float | None = None
        self._is_told = False
        self.pause_s = FIRST_PAUSE_S
        """How long to wait before the next attempt after an error reply."""

    def begin(self) -> None:
        """Note that Redis is away, or still is."""
        if self._since_s is None:
            self._since_s = time.monotonic()

    def longer(self) -> None:
        """Wait longer before the attempt after the next one."""
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    def end(self) -> None:
        """Note that Redis takes Celery's commands again."""
        if self._since_s is not None:
            logger.warning(
                "Redis takes Celery's commands again after %.1f s", time.monotonic() - self._since_s
            )
        self._since_s, self._is_told, self.pause_s = None, False, FIRST_PAUSE_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the first line about the outage pass, and all that is about something else."""
        text = record.getMessage()
        if not text.startswith(("consumer: Cannot connect to", "consumer: Connection to broker")):
            return True
        self.begin()
        if record.msg == "%s (%r)" and isinstance(record.args, tuple):
            record.msg = "%s (%s)"  # redis-py's errors show but their class
        first, self._is_told = not self._is_told, True
        return first


class PromptConsumer(Consumer):
    """Looks for a lost Redis every two seconds; Celery's own pauses grow to half a minute.

    An error reply counts as a loss (`broker.OUTAGES`), and after one there is a pause as well. A
    message that Celery cannot take is dropped with a line in the log.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outage = Outage()
        self._settles: Any = None
        self.task_consumer: Any = getattr(self, "task_consumer", None)
        celery_logger = logging.getLogger(Consumer.__module__)
        celery_logger.addFilter(self._outage)

    # Outages

    def connect(self) -> Any:
        """Return the connection once it is up; Celery would leave an unusable one behind."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        if self.hub:
            try:
                connection.transport.register_with_event_loop(connection.connection, self.hub)
            except Exception:
                ignore_errors(connection, connection.close)
                raise
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection once it is up."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=FIRST_PAUSE_S,
            interval_step=FIRST_PAUSE_S,
            interval_max=LONGEST_PAUSE_S,
        )
        return super().ensure_connected(conn)

    def register_with_event_loop(self, hub: Any) -> None:
        """Take the event loop, and look at each of its turns whether an ack has failed."""
        super().register_with_event_loop(hub)
        hub.on_tick.add(self._check_acks)

    def on_ready(self) -> None:
        """Begin to consume; Celery calls this for each connection."""
        super().on_ready()
        timer: Any = self.timer
        self._settles = timer.call_after(SETTLED_S, self._settled)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Note an outage, and wait a moment."""
        super().on_connection_error_before_connected(exc)
        self._wait(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Note an outage, close the connection, and wait a moment."""
        self._settle_no_more()
        with warnings.catch_warnings():
            # It warns at each lost connection that tasks are not cancelled, as intended.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        self._wait(exc)

    def _settled(self) -> None:
        """Note that an outage is over, and free what Celery has left of the connection before.

        Each connection leaves some hundred KB (classes, clients, channels) that refer to each other.
        """
        self._outage.end()
        freed_memory.collect()

    def _settle_no_more(self) -> None:
        settles, self._settles = self._settles, None
        if settles is not None:
            settles.cancel()

    def _wait(self, error: Exception) -> None:
        """Wait after an error reply or none; after a lost connection, connecting again waits itself.

        Jobs are looked for meanwhile: their scripts may pass where Celery's commands do not.
        """
        self._settle_no_more()
        self._outage.begin()
        if not isinstance(error, redis.ResponseError | redis.InvalidResponse):
            return
        pool: Any = self.pool
        pool.look()
        end_s = time.monotonic() + self._outage.pause_s
        self._outage.longer()
        while (left_s := end_s - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left_s, _POLL_S))

    def _check_acks(self) -> None:
        fault = getattr(getattr(self.task_consumer, "channel", None), "fault", None)
        if fault is not None and self.connection:
            self.task_consumer.channel.fault = None
            raise fault

    # Messages that are no doorbells

    def create_task_handler(self, promise: Any = promise) -> Any:
        """Return what takes messages: a foreign one must not end the worker."""
        take = super().create_task_handler(promise)

        def take_or_drop(message: Any) -> None:
            try:
                take(message)
            except (redis.RedisError, OSError):
                raise
            except Exception as error:
                if message.headers.get("task") == DOORBELL:
                    raise  # ours: this is no fault of the message
                self._drop(message, repr(error))

        return take_or_drop

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Drop a message that names no task."""
        self._drop(message, "it names no task", body)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message with an unknown task."""
        self._drop(message, f"unknown task {exc}", body)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message whose fields Celery refuses."""
        self._drop(message, repr(exc), body)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message whose body cannot be read."""
        self._drop(message, repr(exc))

    def _drop(self, message: Any, why: str, body: Any = "") -> None:
        dropped.note(why, body or "")
        message.ack_log_error(logger, self.connection_errors)


class CalmAcks(logging.Filter):
    """Makes a line of an ack that Redis's absence has cut off: the bell rings again, no harm done.

    kombu calls it critical and shows three tracebacks.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it is always kept."""
        if str(record.msg).startswith("Couldn't ack"):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.exc_info = record.exc_text = None
        return True


def calm_acks() -> None:
    """Have Celery's requests report lost acks in a line."""
    logging.getLogger("celery.worker.request").addFilter(CalmAcks())
