"""Requests and tokens a minute of each API key, counted in Redis across all API processes."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.transport import keys
from penstock.transport.store.connection import patiently_async
from penstock.transport.store.shapes import declare, integer, row

if TYPE_CHECKING:
    import redis.asyncio

    from penstock.settings import Settings
    from penstock.transport.accounts.keyring import KeyCard

MINUTE_S: Final = 60.0


class Bucket(msgspec.Struct, frozen=True):
    """What is left of a minute's allowance. `reset_s` is the time until it is full again."""

    most: int
    left: int

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full."""
        return (self.most - self.left) * MINUTE_S / self.most


class Allowance(msgspec.Struct, frozen=True):
    """A key's limits after a request; None for a limit that it does not have.

    The request is admitted if `wait_s` is 0.
    """

    wait_s: float
    requests: Bucket | None
    tokens: Bucket | None


class Limits:
    """Takes from the buckets of keys. Owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        folder = resources.files("penstock.transport.store") / "scripts"
        source = declare(
            (folder / "limit.lua").read_text(encoding="utf-8"), row(integer, integer, integer)
        )
        self._script = cast("Any", redis).register_script(source)
        self._patience_s = settings.redis_patience_s

    async def take(self, card: KeyCard, tokens: int) -> Allowance:
        """Take one request of `tokens` (an estimate), or return how long to wait.

        :raises StoreUnavailable:
        """
        return await self._run(card, 1, tokens, "0")

    async def settle(self, card: KeyCard, tokens: int) -> None:
        """Take `tokens` more than the estimate; if negative, give tokens back.

        :raises StoreUnavailable:
        """
        if card.tokens_per_min and tokens:
            await self._run(card, 0, tokens, "1")

    async def _run(self, card: KeyCard, requests: int, tokens: int, force: str) -> Allowance:
        arguments = (card.requests_per_min, card.tokens_per_min, requests, tokens, force)
        wait_ms, requests_left, tokens_left = await patiently_async(
            lambda: self._script(keys=[keys.limit(card.id)], args=arguments), self._patience_s
        )
        return Allowance(
            wait_s=wait_ms / 1000,
            requests=_bucket(card.requests_per_min, requests_left),
            tokens=_bucket(card.tokens_per_min, tokens_left),
        )


def _bucket(most: int, left: int) -> Bucket | None:
    return Bucket(most, left) if most else None
