"""Every process of a fleet is replaced under load, one after another; no client notices."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.chaos.audit import Audit
from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet
from tests.chaos.load import Ask, Clients, Outcome, draw_asks
from tests.chaos.proxy import FaultyProxy
from tests.chaos.verdict import judge
from tests.fixtures.processes import answers, card_of
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

CLIENTS = 6
PAUSE_S = (0.1, 0.5)
"""Between two jobs of a client: the new processes start with what is left of the processor."""
ENDED_S = 60.0


class Load:
    """Clients that ask one thing after another until told to stop."""

    def __init__(self, client: Clients, asks: list[Ask]) -> None:
        self.outcomes: list[Outcome] = []
        self._client, self._asks = client, asks
        self._over = False
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]

    async def _ask(self, number: int) -> None:
        rng = random.Random(number)
        while not self._over:
            self.outcomes.append(await self._client.ask(rng.choice(self._asks)))
            await asyncio.sleep(rng.uniform(*PAUSE_S))

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


async def replace_workers(fleet: Fleet) -> None:
    for place, old in enumerate(fleet.workers):
        new = fleet.workers[place] = fleet.new_worker(place)
        await asyncio.to_thread(new.wait_until, lambda w=new: card_of(fleet.store.url, w.pid))
        old.send(signal.SIGTERM)
        assert await asyncio.to_thread(old.wait, ENDED_S) == 0


async def replace_apis(fleet: Fleet) -> None:
    for place, old in enumerate(fleet.apis):
        old.send(signal.SIGTERM)
        await asyncio.to_thread(old.wait, ENDED_S)
        new = fleet.apis[place] = fleet.new_api(place)
        await asyncio.to_thread(new.wait_until, lambda a=new: answers(f"{a.url}/ready"))


async def restart_redis(fleet: Fleet) -> None:
    fleet.store.kill()
    await asyncio.to_thread(fleet.store.start)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_rolling_restart_of_every_process_loses_nothing(
    tmp_path: Path, models_dir: Path
) -> None:
    store = RedisServer(tmp_path, append_only=True)
    proxy = FaultyProxy(store.port)
    async with proxy.running(), httpx.AsyncClient(timeout=httpx.Timeout(10.0)) as http:
        fleet = Fleet(tmp_path, models_dir, store, proxy, 1800)
        try:
            await fleet.start(workers=2, apis=2)
            client = Clients(http, [api.url for api in fleet.apis], random.Random(1))
            asks = [
                dataclasses.replace(one, text=(await client.ask(one)).text)
                for one in draw_asks(8, 1, (40, 160))
            ]
            load = Load(client, asks)
            for replace in (replace_workers, replace_apis, restart_redis):
                await replace(fleet)
            await load.stop()
            await asyncio.to_thread(fleet.settle)
            audit = Audit(Faults(fleet, random.Random(1)), store.url)
            verdict = judge(load.outcomes, audit, [store.url])
        except BaseException:
            fleet.print_logs()
            raise
        finally:
            fleet.stop()
    assert not verdict.faults_found, verdict.table()
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, 0)
    assert verdict.jobs > CLIENTS
    assert verdict.connections > verdict.jobs, "streams were cut, and went on"
