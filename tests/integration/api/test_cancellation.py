"""What a client's going away rests on: a task that is cancelled stops, wherever it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from api.http.disconnect import ClientGone, until_disconnect

if TYPE_CHECKING:
    import redis.asyncio
    from starlette.types import Message


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_of_redis_never_swallows_a_cancellation(
    async_redis: redis.asyncio.Redis, turns: int
) -> None:
    """redis-py does so by itself, on Python 3.11, a turn or two after the command was sent."""
    await async_redis.ping()
    went_on = False

    async def work() -> None:
        nonlocal went_on
        await async_redis.ping()
        went_on = True
        await asyncio.sleep(60)

    task = asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    if not went_on:
        task.cancel()
        await asyncio.wait({task}, timeout=2.0)
        assert task.cancelled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await async_redis.ping(), "the connection serves on"


async def receive_nothing() -> Message:
    await asyncio.sleep(60)
    raise AssertionError


async def test_a_result_comes_through() -> None:
    async def work() -> int:
        return 5

    assert await until_disconnect(receive_nothing, work()) == 5


async def test_an_error_comes_through() -> None:
    async def work() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until_disconnect(receive_nothing, work())


async def test_work_has_cleaned_up_when_the_client_has_gone() -> None:
    cleaned = False

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned = True

    with pytest.raises(ClientGone):
        await until_disconnect(receive, work())
    assert cleaned


async def test_outer_cancellation_reaches_the_work() -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    task = asyncio.create_task(until_disconnect(receive_nothing, work()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()
