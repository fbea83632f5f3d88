"""LoRA adapters that were loaded at run time, as every process of the fleet knows them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.adapter import LoadedAdapter
from penstock.errors import InvalidParameter
from penstock.transport import keys
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently_async

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis.asyncio

    from penstock.settings import Settings

MOST_ADAPTERS: Final = 1_000

_log = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(LoadedAdapter)
_encoder = msgspec.json.Encoder()


class AdapterStore:
    """Adds and removes adapters. The API's side; owned by the event loop."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._patience_s = settings.redis_patience_s

    async def add(self, adapter: LoadedAdapter, *, in_place: bool = False) -> None:
        """Store an adapter by its name; `in_place` replaces one of the same name and base.

        :raises InvalidParameter: the name is taken, or there are too many.
        :raises StoreUnavailable: Redis is away.
        """
        name, payload = adapter.card.name, _encoder.encode(adapter)
        count, stored = await patiently_async(lambda: self._state(name), self._patience_s)
        known = read([(name, stored)]).get(name)
        if known == adapter:
            return
        if known is not None and not (in_place and known.base == adapter.base):
            raise InvalidParameter(
                f"The lora adapter {name!r} has already been loaded", param="lora_name"
            )
        if known is None and count >= MOST_ADAPTERS:
            raise InvalidParameter(
                f"{MOST_ADAPTERS} adapters are loaded, the most: unload one", param="lora_name"
            )
        await patiently_async(
            lambda: self._redis.hset(keys.ADAPTERS, name, payload), self._patience_s
        )

    async def remove(self, name: str) -> bool:
        """Forget an adapter; False if there is none of this name.

        :raises StoreUnavailable: Redis is away.
        """
        removed = await patiently_async(
            lambda: self._redis.hdel(keys.ADAPTERS, name), self._patience_s
        )
        return bool(removed)

    async def _state(self, name: str) -> tuple[int, bytes | None]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hlen(keys.ADAPTERS)
        pipeline.hget(keys.ADAPTERS, name)
        count, stored = await pipeline.execute()
        return count, stored


def loaded(stored: Any) -> Iterable[LoadedAdapter]:
    """Return the adapters of the whole hash; none if its key has another type."""
    if isinstance(stored, Exception):
        _log.warning("the loaded adapters cannot be read: %s", stored)
        return ()
    fields = [(name.decode(errors="replace"), payload) for name, payload in stored.items()]
    return read(fields).values()


def read(stored: list[tuple[str, bytes | None]]) -> dict[str, LoadedAdapter]:
    """Return the adapters of the hash's fields by name; what cannot be read is left out."""
    fields = [(f"{keys.ADAPTERS} {name}", payload) for name, payload in stored]
    adapters = contents.readable(_decoder, fields)
    return {
        name: adapter
        for (name, _), adapter in zip(stored, adapters, strict=True)
        if adapter is not None and adapter.card.name == name
    }
