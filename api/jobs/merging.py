"""Several jobs' events as one stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from penstock.contract.events import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from penstock.contract.events import Event

    Stream = AsyncGenerator[Event | None, None]
    Item = tuple[int, Event] | None

MOST_WAITING: Final = 64
"""Events that may wait for the client; then the jobs' streams wait."""


async def merged(streams: Sequence[Stream]) -> AsyncGenerator[Item, None]:
    """Yield (stream's position, event) as they arrive, until each stream has had its last event.

    None stands for a stream's silence. An error in one stream ends all of them.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as events:
            async for event in events:
                yield None if event is None else (0, event)
        return
    arrived: asyncio.Queue[Item | Exception] = asyncio.Queue(MOST_WAITING)
    pumps = [
        asyncio.create_task(_pump(position, stream, arrived))
        for position, stream in enumerate(streams)
    ]
    left = len(pumps)
    try:
        while left:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is not None and not isinstance(item[1], Tokens):
                left -= 1
            yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(position: int, stream: Stream, arrived: asyncio.Queue[Item | Exception]) -> None:
    try:
        async with aclosing(stream) as events:
            async for event in events:
                await arrived.put(None if event is None else (position, event))
    except Exception as error:  # noqa: BLE001  raised again by `merged`
        await arrived.put(error)
