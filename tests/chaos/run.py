"""One chaos run: references first, then load and faults together, then the verdict."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from tests.chaos import networks, protocols
from tests.chaos.audit import Audit, journal_text
from tests.chaos.faults import CLOCKS, Faults
from tests.chaos.fleet import MODELS, Fleet, queue_of
from tests.chaos.load import SILENCE_S, Ask, Clients, Outcome, draw_asks
from tests.chaos.memory import Watch
from tests.chaos.proxy import FaultyProxy
from tests.chaos.verdict import Verdict, judge
from tests.fixtures.clocks import WallClock, find_library
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONGEST_REST_S = 10.0
REFERENCES_AT_ONCE = 4
REPORT_EVERY_S = 30.0


@dataclass(frozen=True)
class Plan:
    """The size of a run. It ends when the time is over, and the jobs and the faults are done."""

    seed: int
    seconds: float
    jobs: int
    clients: int = 16
    workers: int = 3
    apis: int = 2
    asks: int = 48
    tokens: tuple[int, int] = (20, 250)
    faults: int = 0
    pause_s: tuple[float, float] = (0.0, 0.0)
    """How long a client rests between two jobs."""
    load: float = 1.0
    """The share of its time that a client asks in; it rests for the others."""
    once: float = 0.25
    """The share of jobs that are asked for without a key, and once."""
    protocols: tuple[str, ...] = tuple(protocols.BY_NAME)
    """What the clients ask by, in turn."""
    only: tuple[str, ...] = ()
    """Kinds of faults; all if it is empty."""
    order: tuple[str, ...] = ()
    """All faults, in their order; drawn ones if it is empty."""
    fault_pause_s: tuple[float, float] = (0.3, 2.0)
    """Between two faults."""
    spare_first: bool = False
    """Whether one worker and one API process live through the run, for the sake of their memory."""
    has_networks: bool = True
    """Whether each process gets a network of its own, if the machine lets us."""
    is_grouped: bool = False
    """Whether the Redis that is hit is a group's, beside a home Redis that is left alone."""
    is_on_demand: bool = False
    """Whether workers have two models and room for one: faults of loads are added."""
    has_stores: bool = False
    """Whether workers keep and exchange blocks of KV cache: faults of their folders are added."""
    journal_ttl_s: int = 0
    """0: as long as the run, and half an hour."""


async def run(
    plan: Plan, folder: Path, models_dir: Path, tell: Callable[[str], None] = print
) -> Verdict:
    """Return the verdict of a run; `folder` keeps Redis's file and the logs."""
    # As compose.yaml and the manifests have it.
    store = RedisServer(folder, append_only=True, options=("--appendfsync", "everysec"))
    proxy = FaultyProxy(store.port)
    async with proxy.running():
        wants_clock = not plan.order or bool(CLOCKS.keys() & set(plan.order))
        can_step = wants_clock and find_library() is not None
        clock = WallClock(folder / "wall-clock") if can_step else None
        journal_ttl_s = plan.journal_ttl_s or int(plan.seconds) + 1800
        wants_networks = plan.has_networks and not plan.is_grouped  # the home Redis has one place
        why_not = await asyncio.to_thread(networks.reason_against) if wants_networks else ""
        has_networks = wants_networks and not why_not
        home = _home(folder) if plan.is_grouped else None
        fleet = Fleet(
            folder, models_dir, store, proxy, journal_ttl_s, clock, has_networks, home,
            plan.is_on_demand, plan.has_stores,
        )  # fmt: skip
        if wants_clock and clock is None:
            tell("no libfaketime: clocks are left alone")
        if why_not:
            tell(f"no partitions by network namespaces, the proxy stalls instead: {why_not}")
        try:
            await fleet.start(plan.workers, plan.apis)
            tell(f"fleet of {plan.workers} workers and {plan.apis} API processes is up")
            verdict = await _run(plan, fleet, tell)
        except BaseException:
            fleet.print_logs()
            raise
        finally:
            fleet.stop()
    return verdict


def _home(folder: Path) -> RedisServer:
    (folder / "home").mkdir()
    return RedisServer(folder / "home", append_only=True)


async def _run(plan: Plan, fleet: Fleet, tell: Callable[[str], None]) -> Verdict:
    rng = random.Random(plan.seed)
    limits = httpx.Limits(max_connections=plan.clients * 2)
    timeout = httpx.Timeout(10.0, read=SILENCE_S)
    async with httpx.AsyncClient(limits=limits, timeout=timeout) as http:
        urls = [api.url for api in fleet.apis]
        clients = Clients(http, urls, rng)
        models = MODELS if plan.is_on_demand else MODELS[:1]
        drawn = draw_asks(plan.asks, plan.seed, plan.tokens, plan.protocols, models)
        asks = await _references(clients, drawn, fleet.store.url)
        tell(f"{len(asks)} undisturbed texts")
        faults = Faults(
            fleet,
            random.Random(plan.seed + 1),
            only=plan.only,
            order=plan.order,
            spare_first=plan.spare_first,
            pause_s=plan.fault_pause_s,
        )
        audit = Audit(faults, fleet.store.url)
        load = _Load(plan, clients, asks, audit, tell)
        watch = Watch(fleet, load.asked_since)
        beside = [asyncio.create_task(one.run()) for one in (faults, audit, watch)]
        begun_s = time.monotonic()
        outcomes = await load.run()
        seconds = time.monotonic() - begun_s
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    await asyncio.to_thread(fleet.settle)
    await asyncio.to_thread(audit.look)
    stores = [fleet.store, *filter(None, [fleet.home])]
    verdict = judge(outcomes, audit, [store.url for store in stores])
    verdict.seconds, verdict.tokens_per_s = seconds, verdict.tokens / seconds
    verdict.tracebacks = await asyncio.to_thread(fleet.tracebacks)
    verdict.memory_mib = watch.quarters(spared=plan.spare_first)
    verdict.memory_minutes = watch.minutes()
    verdict.redis_excesses = watch.excesses()
    verdict.faults_found += [f"{one} had two models in memory" for one in sorted(watch.crowded)]
    return verdict


async def _references(clients: Clients, asks: list[Ask], store_url: str) -> list[Ask]:
    """Return the asks with the text of each, a few at a time, without faults."""
    room = asyncio.Semaphore(REFERENCES_AT_ONCE)

    async def reference(ask: Ask) -> Ask:
        async with room:
            outcome = await clients.ask(ask)
        assert not outcome.error, f"{ask.protocol}: {outcome.error}"
        assert outcome.text, f"{ask.protocol}: an empty answer"
        queue = queue_of(ask.model)
        written = await asyncio.to_thread(journal_text, store_url, outcome.job_id, queue)
        return dataclasses.replace(ask, text=outcome.text, journal_text=written)

    return list(await asyncio.gather(*map(reference, asks)))


@dataclass
class _Load:
    """The clients, each with one job at a time."""

    plan: Plan
    clients: Clients
    asks: list[Ask]
    audit: Audit
    tell: Callable[[str], None]
    outcomes: list[Outcome] = field(default_factory=list)
    begun: int = 0

    async def run(self) -> list[Outcome]:
        """Ask until the run is over."""
        self._start_s = time.monotonic()
        self._rng = random.Random(self.plan.seed)
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(self._report())
            async with asyncio.TaskGroup() as asking:
                for _ in range(self.plan.clients):
                    asking.create_task(self._client())
            reporting.cancel()
        return self.outcomes

    def asked_since(self, moment_s: float) -> int:
        """Return how many jobs were in flight at a moment (monotonic) or after it."""
        ended = sum(outcome.ended_s >= moment_s for outcome in self.outcomes)
        return ended + self.begun - len(self.outcomes)

    def _is_over(self) -> bool:
        faults = self.audit.faults
        if faults.broken is not None:
            raise faults.broken
        enough = self.begun >= self.plan.jobs and faults.counts.total() >= self.plan.faults
        return enough and time.monotonic() - self._start_s >= self.plan.seconds

    async def _client(self) -> None:
        while not self._is_over():
            self.begun += 1
            ask = self._rng.choice(self.asks)
            takes_key = protocols.BY_NAME[ask.protocol].takes_key
            once = not takes_key or self._rng.random() < self.plan.once
            outcome = await (self.clients.ask_once(ask) if once else self.clients.ask(ask))
            self.outcomes.append(outcome)
            self.audit.note(outcome)
            await asyncio.sleep(self._rest_s(outcome))

    def _rest_s(self, outcome: Outcome) -> float:
        took_s = outcome.ended_s - outcome.begun_s
        rest_s = min(took_s * (1 / self.plan.load - 1), LONGEST_REST_S)
        return rest_s + self._rng.uniform(*self.plan.pause_s)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            wrong = sum(not outcome.right for outcome in self.outcomes)
            counts = self.audit.faults.counts
            self.tell(
                f"{time.monotonic() - self._start_s:.0f} s: {len(self.outcomes)} jobs, "
                f"{wrong} not right, {counts.total()} faults"
            )
