"""Requests of the same instant begin in their order, a few in a turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from api.http.start_limiter import AT_ONCE, Turnstile

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MANY = 3 * AT_ONCE


class Beginning:
    """An application that notes in which turn of the loop each request began."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int]] = []
        self.turn = 0

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Note it."""
        self.began.append((scope["number"], self.turn))

    async def count_turns(self) -> None:
        """Count the loop's turns until cancelled."""
        while True:
            await asyncio.sleep(0)
            self.turn += 1


async def nothing(*_: Any) -> Any:
    raise AssertionError("nobody receives or sends here")


def request(number: int, path: str = "/v1/models") -> dict[str, Any]:
    return {"type": "http", "path": path, "number": number}


async def test_a_few_begin_in_a_turn_in_their_order():
    app = Beginning()
    turnstile = Turnstile(app)
    counting = asyncio.create_task(app.count_turns())
    await asyncio.gather(*(turnstile(request(n), nothing, nothing) for n in range(MANY)))
    counting.cancel()
    assert [number for number, _ in app.began] == list(range(MANY))
    turns = [turn for _, turn in app.began]
    assert max(turns.count(turn) for turn in turns) == AT_ONCE
    assert len(set(turns)) == MANY // AT_ONCE


async def test_who_comes_later_waits_behind_those_who_wait():
    app = Beginning()
    turnstile = Turnstile(app)
    first = [asyncio.create_task(turnstile(request(n), nothing, nothing)) for n in range(MANY)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(app.began) < MANY
    await asyncio.gather(*first, turnstile(request(MANY), nothing, nothing))
    assert [number for number, _ in app.began] == list(range(MANY + 1))


async def test_one_that_has_gone_takes_no_turn():
    app = Beginning()
    turnstile = Turnstile(app)
    tasks = [asyncio.create_task(turnstile(request(n), nothing, nothing)) for n in range(MANY)]
    await asyncio.sleep(0)
    for task in tasks[AT_ONCE:-1]:
        task.cancel()
    await asyncio.wait_for(tasks[-1], 1)
    assert [number for number, _ in app.began] == [*range(AT_ONCE), MANY - 1]


@pytest.mark.parametrize(
    "scope", [request(9, "/health"), {"type": "lifespan", "number": 9}], ids=str
)
async def test_a_probe_does_not_wait(scope: dict[str, Any]):
    app = Beginning()
    turnstile = Turnstile(app)
    waiting = [asyncio.create_task(turnstile(request(n), nothing, nothing)) for n in range(MANY)]
    await asyncio.sleep(0)
    await turnstile(scope, nothing, nothing)
    assert len(app.began) <= 2 * AT_ONCE
    await asyncio.gather(*waiting)
