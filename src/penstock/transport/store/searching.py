"""Looks in several Redis for what only one of them has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable


async def first_of(answers: Iterable[Awaitable[Any]]) -> Any:
    """Return the first answer that is not None, without waiting for the others; None if none is.

    :raises StoreUnavailable: none has it, and one could not be asked.
    """
    searches = {asyncio.ensure_future(answer) for answer in answers}
    pending = searches
    failure: BaseException | None = None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for search in done:
                failure = search.exception() or failure
                if search.exception() is None and search.result() is not None:
                    return search.result()
    finally:
        for search in searches:
            search.cancel()
    if failure is not None:
        raise failure
    return None
