"""Several jobs' events as one stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from api.jobs.merging import merged
from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.errors import EngineFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.contract.events import Event

END = Finished("j", 1, FinishReason.STOP, Usage(1, 1))


async def stream(
    *items: Event | Exception | None, closed: list[int] | None = None, waits: bool = False
) -> AsyncGenerator[Event | None, None]:
    try:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item
        if waits:
            await asyncio.Event().wait()
    finally:
        if closed is not None:
            closed.append(1)


async def test_one_streams_events_come_as_they_are() -> None:
    token = Tokens("j", 0, (1,), "a")
    assert [item async for item in merged([stream(token, None, END)])] == [
        (0, token), None, (0, END),
    ]  # fmt: skip


async def test_all_streams_come_to_their_ends() -> None:
    token = Tokens("j", 0, (1,), "a")
    items = [item async for item in merged([stream(token, END), stream(END), stream(None, END)])]
    assert sorted(item[0] for item in items if item) == [0, 0, 1, 2]
    assert items.count(None) == 1
    assert [item for item in items if item and item[0] == 0] == [(0, token), (0, END)]


async def test_an_error_of_one_ends_and_closes_the_others() -> None:
    closed: list[int] = []
    streams = [stream(closed=closed, waits=True), stream(EngineFailed("no"), closed=closed)]
    with pytest.raises(EngineFailed):
        [item async for item in merged(streams)]
    assert len(closed) == 2


async def test_leaving_early_closes_all() -> None:
    closed: list[int] = []
    token = Tokens("j", 0, (1,), "a")
    streams = [stream(token, closed=closed, waits=True) for _ in range(3)]
    async with aclosing(merged(streams)) as items:
        assert await anext(items)
        await asyncio.sleep(0)
    assert len(closed) == 3
