"""FastChat workers that have registered with us, shared by all API processes through Redis."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.transport import keys
from penstock.transport.store import contents

if TYPE_CHECKING:
    import redis.asyncio

    from penstock.settings import Settings

_encoder = msgspec.json.Encoder()

PROBE_S: Final = 3.0
"""How often one of the API processes probes each of them."""


class PeerCard(msgspec.Struct, frozen=True):
    """A FastChat worker: its base URL, and its last report.

    `speed` and `queue_length` are FastChat's: a weight, and the requests that run or wait.
    `vouched`: it registered with the token, so it need not be on the list of hosts.
    """

    url: str
    models: tuple[str, ...]
    speed: float = 1.0
    queue_length: int = 0
    multimodal: bool = False
    context_length: int = 0
    vouched: bool = False


_decoder = msgspec.json.Decoder(PeerCard)


def key_of(url: str) -> str:
    """Return the key of a worker's card; a URL may hold any character, so it is hashed."""
    return keys.peer(hashlib.sha256(url.encode()).hexdigest()[:32])


class PeerBook:
    """The list of FastChat workers.

    A card expires `settings.fastchat_worker_life_s` after its last renewal.

    All methods raise redis.exceptions.RedisError while Redis is away.
    """

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._life_ms = int(settings.fastchat_worker_life_s * 1000)

    async def put(self, card: PeerCard) -> None:
        """Add a worker, or renew it."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(key_of(card.url), _encoder.encode(card), px=self._life_ms)
        pipeline.sadd(keys.PEERS, card.url)
        pipeline.pexpire(keys.PEERS, self._life_ms * 2)
        await pipeline.execute()

    async def renew(self, card: PeerCard) -> bool:
        """Renew a worker; False if it is not listed (another process dropped it)."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(key_of(card.url), _encoder.encode(card), px=self._life_ms, xx=True)
        pipeline.pexpire(keys.PEERS, self._life_ms * 2)
        return bool((await pipeline.execute())[0])

    async def get(self, url: str) -> PeerCard | None:
        """Return a worker's card, or None if it is not listed.

        :raises StoreUnavailable: it cannot be read.
        """
        stored = await self._redis.get(key_of(url))
        return None if stored is None else contents.decode(_decoder, stored, key_of(url))

    async def drop(self, url: str) -> None:
        """Delete a worker; its next heartbeat reports that, and it registers again."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.delete(key_of(url))
        pipeline.srem(keys.PEERS, url)
        await pipeline.execute()

    async def cards(self) -> tuple[PeerCard, ...]:
        """Return every worker's card that can be read, ordered by URL."""
        members = await self._redis.smembers(keys.PEERS)
        if not members:
            return ()
        urls = sorted(url.decode(errors="replace") for url in members)
        card_keys = [key_of(url) for url in urls]
        stored = zip(card_keys, await self._redis.mget(card_keys), strict=True)
        return tuple(card for card in contents.readable(_decoder, stored) if card is not None)
