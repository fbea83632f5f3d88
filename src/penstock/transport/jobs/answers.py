"""Answers of a queue's jobs as tokens, so that workers can draft later ones from them."""

from __future__ import annotations

import zlib
from array import array
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import redis

    from penstock.transport.store.scripting import Scripts

MOST_ANSWERS: Final = 512
"""Answers of a scope that Redis keeps: 300 kB if each has 300 tokens."""

PAGE: Final = 64
"""Most answers that one call returns."""

LIFE_S: Final = 24 * 3600
"""How long a scope's answers are kept after the last one."""

MOST_BYTES: Final = 1 << 14
"""Of one answer, unpacked."""

_TOKEN_BYTES: Final = 4


def add(
    scripts: Scripts, queue: str, scope: str, texts: Iterable[Sequence[int]], *, most_bytes: int
) -> None:
    """Add answers of a scope, with the ends of their prompts.

    The answers of all scopes of the queue take `most_bytes` in Redis at most: the scopes that were
    added to longest ago make room.

    :raises redis.RedisError: Redis is away, or refuses.
    """
    packed = (zlib.compress(array("i", text).tobytes(), 1) for text in texts)
    name = keys.answer_scope(scope)
    scripts.run("answers", queue, name, MOST_ANSWERS, LIFE_S * 1000, most_bytes, *packed)


def read(
    store: redis.Redis, queue: str, scope: str, after: str
) -> tuple[list[tuple[int, ...]], str]:
    """Return a scope's answers after an entry, oldest first, and the entry to go on after.

    "" is before the first. Entries that are no answers are left out.

    :raises redis.RedisError: Redis is away, or refuses.
    """
    key = keys.answers(queue, scope)
    entries = cast("Any", store).xrange(key, min=f"({after}" if after else "-", count=PAGE)
    texts = [_unpacked(fields.get(b"t", b"")) for _, fields in entries]
    last = entries[-1][0].decode() if entries else after
    return [text for text in texts if text], last


def _unpacked(packed: bytes) -> tuple[int, ...]:
    """Return an entry's tokens; none if it is no answer."""
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed, MOST_BYTES)
    except zlib.error:
        return ()
    if not unpacker.eof or len(raw) % _TOKEN_BYTES:
        return ()
    return tuple(array("i", raw))
