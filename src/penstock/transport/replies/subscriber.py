"""One subscription to one channel, kept up during the life of the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from penstock.transport.store.connection import FIRST_PAUSE_S, LONGEST_PAUSE_S, words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio

_log = logging.getLogger(__name__)

SILENCE_S: Final = 1.0
"""The connection is pinged after this long without a message."""
DEAD_S: Final = 4.0
"""The connection is given up after this long without even a ping's answer."""
FIRST_SUBSCRIPTION_S: Final = 5.0
"""How long `start` waits for the first subscription."""
BURST: Final = 16
"""Messages read in a row before other tasks run."""


class Subscriber:
    """Passes a channel's messages to `on_message`; calls `on_connect` at every subscription.

    Messages published while the connection is away are lost; `on_connect` has to make up for them.
    The connection is a bare one, because redis-py's own pub/sub reconnects silently.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        channel: str,
        *,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None],
    ) -> None:
        self._pool = cast("Any", redis).connection_pool
        self._channel = channel
        self._on_message = on_message
        self._on_connect = on_connect
        self._subscribed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._away_since_s: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the subscription is up."""
        return self._subscribed.is_set()

    async def start(self) -> None:
        """Start, and wait briefly for the first subscription; no error if Redis is away."""
        self._task = asyncio.create_task(self._run(), name="penstock-subscriber")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._subscribed.wait(), FIRST_SUBSCRIPTION_S)

    async def stop(self) -> None:
        """End the subscription."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            connection = self._pool.make_connection()
            try:
                await self._listen(connection)
            except (RedisError, OSError, RuntimeError) as error:
                self._note_loss(error)
            finally:
                was_subscribed = self._subscribed.is_set()
                self._subscribed.clear()
                with contextlib.suppress(RedisError, OSError, RuntimeError):
                    await connection.disconnect(nowait=True)
            pause_s = FIRST_PAUSE_S if was_subscribed else min(pause_s * 2, LONGEST_PAUSE_S)
            # Many processes lose their connections at the same moment.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

    def _note_loss(self, error: Exception) -> None:
        """Log an outage once, however many attempts it takes."""
        level = logging.DEBUG if self._away_since_s is not None else logging.WARNING
        if self._away_since_s is None:
            self._away_since_s = time.monotonic()
        _log.log(level, "the subscription to %s broke: %s", self._channel, words_of(error))

    def _note_return(self) -> None:
        if self._away_since_s is not None:
            away_s = time.monotonic() - self._away_since_s
            _log.warning("subscribed to %s again after %.1f s", self._channel, away_s)
            self._away_since_s = None

    async def _listen(self, connection: Any) -> None:
        await connection.connect()
        await connection.send_command("SUBSCRIBE", self._channel)
        heard_s = time.monotonic()
        burst = 0
        while True:
            answer = await connection.read_response(timeout=SILENCE_S)
            if answer is None:
                if time.monotonic() - heard_s > DEAD_S:
                    raise RedisConnectionError("no answer to a ping")
                await connection.send_command("PING", check_health=False)
                continue
            heard_s = time.monotonic()
            if not _is_message(answer):
                raise InvalidResponse("a reply that is not a subscription's")
            if answer[0] == b"subscribe":
                self._subscribed.set()
                self._note_return()
                self._on_connect()
            elif not self.connected:
                raise InvalidResponse("a reply before the subscription was confirmed")
            elif answer[0] == b"message" and len(answer) == 3:  # noqa: PLR2004 - kind, channel, data
                self._on_message(answer[2])
            burst += 1
            if burst % BURST == 0:
                await asyncio.sleep(0)


def _is_message(answer: Any) -> bool:
    """Return whether a reply is a subscription's: a ping's has two parts, a message three."""
    if not isinstance(answer, list) or len(cast("list[Any]", answer)) not in {2, 3}:
        return False
    *_, last = cast("list[Any]", answer)
    return isinstance(last, bytes if answer[0] == b"message" else bytes | int)
