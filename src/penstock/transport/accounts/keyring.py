"""API keys: Redis stores a hash of each key and what its owner may do, never the key itself.

A key is 256 random bits, so its plain SHA-256 reveals nothing about it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.clock import clock
from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently, patiently_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis
    import redis.asyncio

    from penstock.settings import Settings

SECRET_PREFIX: Final = "sk-penstock-"  # noqa: S105  the prefix of every key
SECRET_BYTES: Final = 32
HINT_CHARACTERS: Final = 4
FRESH_S: Final = 1.0
"""How long an API process caches a key; a revoked key works for at most this long."""
MOST_CACHED: Final = 10_000


class KeyCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key's owner may do. A limit of 0 means no limit.

    `hint` is the end of the secret, so that its owner can distinguish keys. `priority` is the best
    priority that its jobs can have (0 first, 9 last). An empty `models` allows every model.
    `admin` keys may operate the fleet. `expires_s` is Unix time.
    """

    id: str
    name: str
    hint: str
    created_s: int
    expires_s: int | None = None
    requests_per_min: int = 0
    tokens_per_min: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    priority: int | None = None
    models: tuple[str, ...] = ()
    admin: bool = False


_decoder = msgspec.json.Decoder(KeyCard)
_encoder = msgspec.json.Encoder()


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret, which is what Redis stores."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class KeyDesk:
    """Makes, lists and revokes keys. The operator's side; synchronous."""

    def __init__(self, redis: redis.Redis, patience_s: float) -> None:
        self._redis = cast("Any", redis)
        self._patience_s = patience_s

    def make(self, name: str, **fields: Any) -> tuple[KeyCard, str]:
        """Store a new key and return its card and its secret, which is stored nowhere.

        :raises StoreUnavailable:
        """
        secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        card = KeyCard(
            id=f"key-{secrets.token_hex(6)}",
            name=name,
            hint=secret[-HINT_CHARACTERS:],
            created_s=int(self.now_s()),
            **fields,
        )
        field, payload = digest(secret), _encoder.encode(card)
        patiently(lambda: self._redis.hset(keys.API_KEYS, field, payload), self._patience_s)
        return card, secret

    def now_s(self) -> float:
        """Return Redis's time (Unix, in seconds), by which keys expire.

        :raises StoreUnavailable:
        """
        seconds, microseconds = patiently(self._redis.time, self._patience_s)
        return seconds + microseconds / 1e6

    def cards(self) -> tuple[KeyCard, ...]:
        """Return every key's card, oldest first.

        :raises StoreUnavailable:
        """
        return tuple(sorted(self._stored().values(), key=lambda card: (card.created_s, card.id)))

    def revoke(self, name: str) -> tuple[KeyCard, ...]:
        """Delete the key with this id, or all keys with this name, and return their cards.

        :raises StoreUnavailable:
        """
        gone = {
            field: card for field, card in self._stored().items() if name in (card.id, card.name)
        }
        if gone:
            patiently(lambda: self._redis.hdel(keys.API_KEYS, *gone), self._patience_s)
        return tuple(gone.values())

    def _stored(self) -> dict[str, KeyCard]:
        stored = patiently(lambda: self._redis.hgetall(keys.API_KEYS), self._patience_s)
        return {
            contents.text(field, keys.API_KEYS): contents.decode(_decoder, card, keys.API_KEYS)
            for field, card in stored.items()
        }


MARK_S: Final = 86_400
"""How long the store remembers that keys are required, after the last process that knew it."""


class Keyring:
    """The API's side: looks keys up, and tolerates a short absence of Redis."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._patience_s = settings.redis_patience_s
        self._cached: dict[str, tuple[float, KeyCard | None]] = {}
        self._is_used: bool | None = None
        self._used_read_s = -FRESH_S
        self._asking: dict[str, asyncio.Future[Any]] = {}

    async def find(self, secret: str) -> KeyCard | None:
        """Return a key's card, or None if the key is unknown or has expired.

        :raises StoreUnavailable: Redis is away, and this key has not been looked up recently.
        """
        card = await self._card(digest(secret))
        expired = card and card.expires_s is not None and clock.now_s() >= card.expires_s
        return None if expired else card

    async def _card(self, field: str) -> KeyCard | None:
        now_s = time.monotonic()
        read_s, card = self._cached.get(field, (-self._patience_s, None))
        if now_s - read_s <= FRESH_S:
            return card
        usable = now_s - read_s < self._patience_s
        try:
            stored = await self._ask(
                field, lambda: self._redis.hget(keys.API_KEYS, field), wait=not usable
            )
        except StoreUnavailable:
            if usable:
                return card
            raise
        card = None if stored is None else contents.decode(_decoder, stored, keys.API_KEYS)
        if len(self._cached) >= MOST_CACHED:
            self._cached.clear()
        self._cached[field] = (time.monotonic(), card)
        return card

    async def names(self) -> dict[str, str]:
        """Return the names of all keys, by key id.

        :raises StoreUnavailable:
        """
        stored = await self._ask("names", lambda: self._redis.hgetall(keys.API_KEYS), wait=True)
        cards = contents.readable(
            _decoder, ((keys.API_KEYS, encoded) for encoded in stored.values())
        )
        return {card.id: card.name for card in cards if card is not None}

    async def is_used(self) -> bool:
        """Return whether any key has ever existed; from then on this process requires one.

        A process that starts after Redis has lost the keys learns it by the mark of another.

        :raises StoreUnavailable: Redis has been away since the process started.
        """
        if self._is_used or time.monotonic() - self._used_read_s <= FRESH_S:
            return bool(self._is_used)
        unknown = self._is_used is None
        try:
            self._is_used = bool(await self._ask("number", self._look, wait=unknown))
            self._used_read_s = time.monotonic()
        except StoreUnavailable:
            if unknown:
                raise
        return bool(self._is_used)

    async def _look(self) -> bool:
        if await self._redis.hlen(keys.API_KEYS):
            return True
        return bool(await self._redis.exists(keys.KEYS_REQUIRED))

    async def remember(self) -> None:
        """Mark in the store that a key is required, if this process knows it and Redis is there."""
        if self._is_used:
            with suppress(StoreUnavailable):
                await self._ask(
                    "mark",
                    lambda: self._redis.set(keys.KEYS_REQUIRED, 1, ex=MARK_S),
                    wait=False,
                )

    async def _ask(self, what: str, call: Callable[[], Awaitable[Any]], *, wait: bool) -> Any:
        """Return Redis's answer. Without `wait`, an absent Redis is an error at once.

        Concurrent requests for the same thing share one answer.
        """
        asking = self._asking.get(what)
        if asking is None:
            patience_s = self._patience_s if wait else 0.0
            asking = asyncio.ensure_future(patiently_async(call, patience_s))
            self._asking[what] = asking
            asking.add_done_callback(lambda done: self._answered(what, done))
        return await asyncio.shield(asking)

    def _answered(self, what: str, done: asyncio.Future[Any]) -> None:
        del self._asking[what]
        if not done.cancelled():
            done.exception()  # asyncio logs an exception that nobody has retrieved
