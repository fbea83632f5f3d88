"""Which other hosts serve blocks, as the registry has it, and which of them answer."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from random import shuffle
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from celery.utils.log import get_logger
from redis.exceptions import RedisError

from penstock.contract.worker import ExchangeCard
from penstock.transport import keys

if TYPE_CHECKING:
    import redis

logger = get_logger(__name__)

MOST_WORKERS: Final = 1024
"""Live workers whose cards are read."""
LOOK_S: Final = 2.0
"""How long what was read of the registry is used."""
PAUSE_S: Final = 10.0
"""How long a host that has failed is not asked."""
_LINE_EVERY_S: Final = 60.0
_URL: Final = re.compile(r"http://(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):\d{1,5}")


class _Model(msgspec.Struct):
    queue: str


class _Card(msgspec.Struct):
    """The part of a worker's card that matters here."""

    models: tuple[_Model, ...] = ()
    exchange: ExchangeCard | None = None


_decoder = msgspec.json.Decoder(_Card)


@dataclass(slots=True)
class _Look:
    """What the registry had of one queue."""

    at_s: float = float("-inf")
    urls: list[str] = field(default_factory=list[str])


class Hosts:
    """The other hosts of each queue. Any thread may use it; nothing is raised if Redis is away."""

    def __init__(self, redis: redis.Redis, store_id: str) -> None:
        """`store_id` is of this host's store: who shares it has nothing that is not here."""
        self._redis = cast("Any", redis)
        self._store_id = store_id
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}
        self._paused_until_s: dict[str, float] = {}
        self._last: dict[str, str] = {}
        self._line_s = float("-inf")

    def of(self, queue: str) -> list[str]:
        """Return the URLs of hosts that answer, the one that had blocks last first."""
        now_s = time.monotonic()
        with self._lock:
            look = self._looks.setdefault(queue, _Look())
            is_due = now_s - look.at_s > LOOK_S
            if is_due:
                look.at_s = now_s
        if is_due:
            look.urls = self._read(queue)
        with self._lock:
            self._paused_until_s = {
                url: until_s for url, until_s in self._paused_until_s.items() if until_s > now_s
            }
            urls = [url for url in look.urls if url not in self._paused_until_s]
            last = self._last.get(queue)
        shuffle(urls)
        urls.sort(key=lambda url: url != last)
        return urls

    def had_blocks(self, queue: str, url: str) -> None:
        """Note who is asked first the next time."""
        with self._lock:
            self._last[queue] = url

    def failed(self, url: str, reason: str) -> None:
        """Ask a host no more for some seconds."""
        now_s = time.monotonic()
        with self._lock:
            self._paused_until_s[url] = now_s + PAUSE_S
            is_silent = now_s - self._line_s < _LINE_EVERY_S
            self._line_s = self._line_s if is_silent else now_s
        if not is_silent:
            logger.warning("No blocks of the KV cache from %s: %s", url, reason)

    def _read(self, queue: str) -> list[str]:
        """Read the registry: workers that leave claim no more, and still have their blocks."""
        try:
            ids = [one.decode() for one in self._redis.zrange(keys.WORKERS, 0, MOST_WORKERS - 1)]
            contents: list[bytes | None] = []
            if ids:
                contents = self._redis.mget([keys.worker(one) for one in ids])
        except (RedisError, OSError, UnicodeDecodeError):
            return []
        return sorted({url for content in contents if (url := self._url(content, queue))})

    def _url(self, content: bytes | None, queue: str) -> str:
        """Return the URL in a worker's card; "" without one, or if it has another model, or our store."""
        try:
            card = _decoder.decode(content or b"{}")
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return ""
        exchange = card.exchange
        if exchange is None or exchange.store == self._store_id:
            return ""
        has_model = any(model.queue == queue for model in card.models)
        return exchange.url if has_model and _URL.fullmatch(exchange.url) else ""
