"""Turns that tenants share."""

from __future__ import annotations

import asyncio

from api.http.fair_turns import FairTurns


class Line:
    """Who began, in order; each ends when it is told to."""

    def __init__(self, turns: FairTurns) -> None:
        self.turns = turns
        self.began: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(self, *names: str) -> None:
        """Each name is a tenant's letter and a number."""
        for name in names:
            self.gates[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._run(name))
            await settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()
            await self.tasks[name]
            await settle()

    async def _run(self, name: str) -> None:
        async with self.turns.of(name[0]):
            self.began.append(name)
            await self.gates[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_tenant_with_the_fewest_is_next() -> None:
    line = Line(FairTurns(at_once=3, a_tenant=3))
    await line.join("a1", "a2", "a3", "a4", "a5", "b1", "b2")
    assert line.began == ["a1", "a2", "a3"]
    await line.end("a1", "a2", "a3")
    assert line.began == ["a1", "a2", "a3", "b1", "a4", "b2"]
    await line.end("b1", "a4", "b2", "a5")
    assert line.began[-1] == "a5"


async def test_a_tenant_has_a_bound_of_its_own() -> None:
    line = Line(FairTurns(at_once=3, a_tenant=2))
    await line.join("a1", "a2", "a3", "b1")
    assert line.began == ["a1", "a2", "b1"]
    await line.end("b1")
    assert line.began == ["a1", "a2", "b1"]
    await line.end("a1")
    assert line.began[-1] == "a3"
    await line.end("a2", "a3")


async def test_those_who_leave_the_line_are_not_called() -> None:
    line = Line(FairTurns(at_once=1, a_tenant=1))
    await line.join("a1", "a2", "b1", "b2")
    for name in ("a2", "b1"):
        line.tasks[name].cancel()
    await settle()
    await line.end("a1")
    assert line.began == ["a1", "b2"]
    line.tasks["b2"].cancel()  # in its turn
    await settle()
    await line.join("c1")
    await line.end("c1")
    assert line.began[-1] == "c1"
