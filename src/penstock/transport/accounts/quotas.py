"""Tokens a day and a month of each API key, counted in Redis across all API processes.

Days and months are in UTC. A request takes its estimate when it is admitted; when it ends, the
difference to its actual use is settled in the same day and month.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.transport import keys
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently, patiently_async

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings
    from penstock.transport.accounts.keyring import KeyCard

DAY_S: Final = 86_400
KEPT_S: Final = {"day": 2 * DAY_S, "month": 33 * DAY_S}
_FORMATS: Final = {"day": "%Y-%m-%d", "month": "%Y-%m"}


class Taken(msgspec.Struct, frozen=True):
    """What was taken at admission: the keys of the periods, for `Quotas.settle`."""

    names: tuple[tuple[str, str], ...] = ()
    over: str = ""
    """The period ("day", "month") that is used up; if set, nothing was taken."""


class Quotas:
    """Takes from the quotas of keys. Owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._patience_s = settings.redis_patience_s

    async def take(self, card: KeyCard, tokens: int) -> Taken:
        """Take an estimate of a request's tokens; the last request may overdraw a quota.

        :raises StoreUnavailable:
        """
        names = _names(card)
        if not names:
            return Taken()
        sums = await self._add(names, tokens)
        for (period, _), total in zip(names, sums, strict=True):
            if total - tokens >= _limit(card, period):
                await self._add(names, -tokens)
                return Taken(over=period)
        return Taken(names)

    async def settle(self, taken: Taken, tokens: int) -> None:
        """Take `tokens` more than the estimate; if negative, give tokens back.

        :raises StoreUnavailable:
        """
        if taken.names and tokens:
            await self._add(taken.names, tokens)

    async def _add(self, names: tuple[tuple[str, str], ...], tokens: int) -> list[int]:
        async def add() -> list[int]:
            pipeline = self._redis.pipeline(transaction=True)
            for period, name in names:
                pipeline.incrby(name, tokens)
                pipeline.expire(name, KEPT_S[period])
            return (await pipeline.execute())[::2]

        return await patiently_async(add, self._patience_s)


def used(redis: redis.Redis, card: KeyCard, patience_s: float) -> dict[str, int]:
    """Return a key's used tokens by period, for each period that has a quota.

    :raises StoreUnavailable:
    """
    names = _names(card)
    if not names:
        return {}
    client = cast("Any", redis)
    values = patiently(lambda: client.mget([name for _, name in names]), patience_s)
    return {
        period: contents.whole_number(value, name)
        for (period, name), value in zip(names, values, strict=True)
    }


def _names(card: KeyCard) -> tuple[tuple[str, str], ...]:
    now = time.gmtime()
    return tuple(
        (period, keys.quota(card.id, time.strftime(form, now)))
        for period, form in _FORMATS.items()
        if _limit(card, period)
    )


def _limit(card: KeyCard, period: str) -> int:
    return card.tokens_per_day if period == "day" else card.tokens_per_month


def resets_in_s(period: str) -> float:
    """Return the seconds until the period ("day" or "month") ends."""
    now = time.time()
    if period == "day":
        return DAY_S - now % DAY_S
    today = time.gmtime(now)
    days = 0
    while time.gmtime(now + days * DAY_S).tm_mon == today.tm_mon:
        days += 1
    return days * DAY_S - now % DAY_S
