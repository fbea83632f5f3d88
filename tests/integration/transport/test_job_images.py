"""Images beside their jobs, in a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.transport import keys
from penstock.transport.jobs.images import ImageLost, JobImages, digest_of, fetch
from penstock.transport.store.connection import connect, connect_async

if TYPE_CHECKING:
    from penstock.settings import Settings

ONE, OTHER = b"one picture", b"another"
BOTH = {digest_of(data): data for data in (ONE, OTHER)}


async def stored(settings: Settings, lasting_s: float) -> None:
    redis = connect_async(settings)
    await JobImages(redis, settings).store(BOTH, "m-cpu", lasting_s)
    await redis.aclose()


async def test_a_worker_gets_the_images_in_order(redis_settings: Settings) -> None:
    await stored(redis_settings, 60.0)
    with connect(redis_settings) as client:
        digests = [*reversed(BOTH), *BOTH]
        assert fetch(client, digests, 1.0) == [BOTH[digest] for digest in digests]


async def test_an_image_lives_as_long_as_the_longest_of_its_jobs(redis_settings: Settings) -> None:
    key = keys.image(digest_of(ONE))
    with connect(redis_settings) as client:
        for lasting_s in (60.0, 600.0, 30.0):
            await stored(redis_settings, lasting_s)
        left_s = client.ttl(key) - redis_settings.journal_ttl_s
        assert 590 <= left_s <= 601


@pytest.mark.parametrize("damage", ["gone", "other bytes", "another type"])
async def test_an_image_that_is_lost(redis_settings: Settings, damage: str) -> None:
    await stored(redis_settings, 60.0)
    key = keys.image(digest_of(ONE))
    with connect(redis_settings) as client:
        client.delete(key)
        if damage == "other bytes":
            client.set(key, b"forged", ex=60)
        elif damage == "another type":
            client.rpush(key, "x")
            client.expire(key, 60)
        with pytest.raises(ImageLost, match="send it again"):
            fetch(client, list(BOTH), 1.0)
