"""Usage by request: an append-only log of one entry a request, with a bounded length."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from redis.exceptions import RedisError

from penstock.clock import clock
from penstock.transport import keys
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently
from penstock.transport.store.shapes import declare, nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    import redis.asyncio

    from penstock.settings import Settings

_log = logging.getLogger(__name__)

PAGE: Final = 1_000
MOST_PENDING: Final = 10_000
"""Rows, of a few hundred bytes each, that a process buffers while Redis is away."""
DAY_S: Final = 86_400


WRITE: Final = declare(
    """
local first, last = tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[2]) or 0)
for i = 5, #ARGV do
  if first + i - 5 > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'r', ARGV[i])
  end
end
redis.call('SET', KEYS[2], math.max(last, first + #ARGV - 5), 'EX', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[3])
""",
    nothing,
)
"""Appends numbered rows. The second key holds the number of the process's last row."""


class UsageRow(msgspec.Struct, frozen=True):
    """The usage of one request, or of one part of a large embeddings request.

    `outcome` is "ok" or an error's code; `time` is ISO 8601, UTC.
    """

    time: str
    key: str
    key_name: str
    model: str
    queue: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    answers: int
    duration_s: float
    request_id: str
    endpoint: str = ""


_decoder = msgspec.json.Decoder(UsageRow)
_encoder = msgspec.json.Encoder()


def now() -> str:
    """Return the current time in a row's format."""
    return format_time(clock.now_ms())


def format_time(unix_ms: int) -> str:
    """Return a Unix time in a row's format."""
    seconds, milliseconds = divmod(unix_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


class UsageLog:
    """The rows that one API process writes. Owned by one event loop.

    Rows that cannot be written now wait for Redis, up to `MOST_PENDING`; past that, the oldest are
    dropped, and the log reports how many. Rows are numbered, so that a row is not written twice
    when the connection breaks before the answer.
    """

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._rows = settings.usage_log_rows
        self._life_s = settings.usage_log_days * DAY_S
        self._script = cast("Any", redis).register_script(WRITE)
        self._keys = (keys.USAGE, keys.usage_written(uuid.uuid4().hex))
        self._pending: deque[bytes] = deque()
        self._written = 0
        self._dropped = 0
        self._flushing = False

    @property
    def pending(self) -> int:
        """The number of waiting rows."""
        return len(self._pending)

    async def add(self, row: UsageRow) -> None:
        """Write a row now, or later if Redis does not answer. Does nothing if the log is off."""
        if not self._rows:
            return
        self._pending.append(_encoder.encode(row))
        if len(self._pending) > MOST_PENDING:
            # A flush that is running may have written it already; then it is not missing.
            self._pending.popleft()
            self._written += 1
            self._dropped += 1
        await self.flush()

    async def flush(self) -> None:
        """Write the waiting rows until Redis fails; a running flush takes new rows along."""
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._pending:
                await self._write()
        except (RedisError, OSError, RuntimeError) as error:
            _log.warning("%d rows of the usage log are waiting: %s", len(self._pending), error)
        else:
            if self._dropped:
                _log.error("%d rows are missing from the usage log", self._dropped)
                self._dropped = 0
        finally:
            self._flushing = False

    async def _write(self) -> None:
        rows = list(islice(self._pending, PAGE))
        first = self._written + 1
        await self._script(keys=self._keys, args=[first, self._rows, self._life_s, DAY_S, *rows])
        # Some rows may have been dropped meanwhile.
        for _ in range(first + len(rows) - 1 - self._written):
            self._pending.popleft()
            self._written += 1


def read(redis: redis.Redis, since_ms: int, patience_s: float) -> Iterator[UsageRow]:
    """Yield the rows written at or after `since_ms` (Unix time), oldest first.

    :raises StoreUnavailable:
    """
    client = cast("Any", redis)
    start = str(since_ms)
    while True:
        first = start
        page = patiently(lambda: client.xrange(keys.USAGE, min=first, count=PAGE), patience_s)  # noqa: B023  called at once
        for _, fields in page:
            yield contents.decode(_decoder, fields.get(b"r", b""), keys.USAGE)
        if len(page) < PAGE:
            return
        start = "(" + page[-1][0].decode()
