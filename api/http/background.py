"""What an API process does besides answering requests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine


@asynccontextmanager
async def at_work(*chores: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run endless chores, each of which bears its own errors, until the block is left."""
    tasks = [asyncio.create_task(chore) for chore in chores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
