"""The images of jobs: each once in Redis, by its content, beside the jobs that name it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.store.connection import patiently, patiently_async
from penstock.transport.store.grouped import Stores, stores_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis
    import redis.asyncio

    from penstock.settings import Settings


class ImageLost(StoreUnavailable):
    """An image of a job is not in Redis any more; the client may send the request again."""


def digest_of(data: bytes) -> str:
    """Return the name by which a job's messages refer to an image."""
    return hashlib.sha256(data).hexdigest()


class JobImages:
    """The API's side. Owned by the event loop."""

    def __init__(self, redis: redis.asyncio.Redis | Stores, settings: Settings) -> None:
        self._redis = stores_of(redis).map(lambda client: cast("Any", client))
        self._patience_s = settings.redis_patience_s
        self._journal_s = settings.journal_ttl_s

    async def store(self, images: Mapping[str, bytes], queue: str, lasting_s: float) -> None:
        """Store images by their digests for as long as a job may run, and its journal's time.

        They go where the jobs of `queue` are.

        An image that is there already gets the longer of the two times.

        :raises StoreUnavailable: Redis is away.
        """
        life_s = int(lasting_s) + self._journal_s + 1

        async def write() -> None:
            pipeline = self._redis.of(queue).pipeline(transaction=False)
            for digest, data in images.items():
                pipeline.set(keys.image(digest), data, nx=True, ex=life_s)
                pipeline.expire(keys.image(digest), life_s, gt=True)
            await pipeline.execute()

        if images:
            await patiently_async(write, self._patience_s)


def fetch(store: redis.Redis, digests: Sequence[str], patience_s: float) -> list[bytes]:
    """Return the images of a job, for a worker.

    :raises StoreUnavailable: Redis is away.
    :raises ImageLost: Redis has one no longer, or other bytes in its place.
    """
    images: list[bytes | None] = patiently(
        lambda: cast("Any", store).mget(list(map(keys.image, digests))), patience_s
    )
    found = [data for data in images if data is not None]
    if list(map(digest_of, found)) != list(digests):
        raise ImageLost("an image of this request is no longer in Redis: send it again")
    return found
