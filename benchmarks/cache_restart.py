"""What a store of KV blocks saves when a worker is killed in mid-answer, and when one starts again.

    python -m benchmarks.cache_restart                    1.1 billion weights, 8,192 tokens of context
    python -m benchmarks.cache_restart --shape 15m --tokens 2000 --rounds 1      a short trial

Real workers with a random model in 4 bit. Each figure is measured with the store and without it, in
turn. The takeover is counted from the second worker's claim, so that the lease is left aside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import conditions, processes
from benchmarks.cpu_engine import SHAPES, write_model
from penstock.cli.fleet.child import Child
from penstock.contract.events import Failed, Tokens
from penstock.contract.job import Generate, Job, Sampling, TokenPrompt
from penstock.settings import Settings
from penstock.transport.jobs import journal
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.store.grouped import close, connect_groups

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

NAME: Final = "bigdl-cache"
QUEUE: Final = f"{NAME}-cpu"
ANSWER_TOKENS: Final = 200
BEFORE_KILL: Final = 24
NEXT_TURN_TOKENS: Final = 48
VOCABULARY: Final = 500
LOOK_S: Final = 0.004
PATIENCE_S: Final = 600.0


@dataclass
class Client:
    """Submits jobs and reads their journals, without the API: texts of a random model are noise."""

    queue: JobQueue
    redis: Any

    async def submit(self, prompt: list[int], max_tokens: int) -> str:
        """Send a greedy job."""
        now_ms = await self.queue.now_ms(QUEUE)
        sampling = Sampling(seed=1, temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        job = Job(
            id=uuid.uuid4().hex,
            queue=QUEUE,
            model=NAME,
            work=Generate(TokenPrompt(tuple(prompt)), sampling),
            reply="penstock:reply:benchmark",
            deadline_ms=now_ms + int(PATIENCE_S * 1000),
            created_ms=now_ms,
        )
        await self.queue.submit(job)
        return job.id

    async def tokens(self, job_id: str) -> list[int]:
        """Return the tokens that are stored by now."""
        events = await journal.read_async(self.redis, QUEUE, job_id, limit=10_000)
        failed = next((one for one in events if isinstance(one, Failed)), None)
        if failed is not None:
            raise SystemExit(f"{failed.code}: {failed.message}")
        return [one for event in events if isinstance(event, Tokens) for one in event.token_ids]

    async def until(self, reached: Callable[[], Coroutine[Any, Any, Any]]) -> float:
        """Poll; return when it was true."""
        end_s = time.monotonic() + PATIENCE_S
        while not await reached():
            if time.monotonic() > end_s:
                raise SystemExit("nothing came of a job")
            await asyncio.sleep(LOOK_S)
        return time.monotonic()

    async def at_least(self, job_id: str, count: int) -> float:
        """Return when so many tokens were stored."""

        async def reached() -> bool:
            return len(await self.tokens(job_id)) >= count

        return await self.until(reached)


@dataclass
class Fleet:
    """Workers of one stack, with a store or without."""

    stack: processes.Stack
    workers: list[Child] = field(default_factory=list[Child])

    def start(self) -> Child:
        """Start a worker and wait until it is ready."""
        name = f"worker{len(self.workers)}"
        command = [sys.executable, "-m", "celery", "-A", "workers", "worker", "-Q", QUEUE]
        child = Child(
            name, [*command, "-n", f"{name}@%h"], self.stack.folder, self.stack.environment
        )
        child.start()
        self.workers.append(child)
        self.stack.wait_until(lambda: self._is_ready(child))
        return child

    def _is_ready(self, child: Child) -> bool:
        if not child.running():
            raise SystemExit("\n".join(child.tail(20)))
        return any("ready." in line for line in child.tail(5))

    def stop(self, child: Child) -> None:
        """End a worker as an operator does."""
        child.send(signal.SIGTERM)
        if child.process is not None:
            child.process.wait(60)

    def kill_all(self) -> None:
        """End all workers at once."""
        for child in self.workers:
            child.kill()


@contextmanager
def fleet(models: Path, store: Path | None) -> Generator[Fleet]:
    """Start Redis and the API, and workers as they are asked for."""
    settings: dict[str, Any] = {
        "PENSTOCK_MODELS_FILE": str(models / "models.toml"),
        "PENSTOCK_MODELS_DIR": str(models),
        "PENSTOCK_SLOTS": "2",
        "PENSTOCK_AFFINITY_WAIT_MS": "0",
        **({} if store is None else {"PENSTOCK_KV_STORE": str(store)}),
    }
    with processes.running(**settings) as stack:
        started = Fleet(stack)
        try:
            yield started
        finally:
            started.kill_all()


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    """Yield a client of a stack's Redis."""
    settings = Settings.model_validate({"redis_url": url})
    stores = connect_groups(settings)
    try:
        yield Client(JobQueue(stores, settings), stores.home)
    finally:
        await close(stores)


def prompt_of(count: int) -> list[int]:
    """Return random tokens: no cache knows them."""
    return [random.randrange(3, VOCABULARY) for _ in range(count)]


async def failover(fleet: Fleet, client: Client, count: int) -> dict[str, float]:
    """Kill a worker in mid-answer; return seconds to its jobs' claim, and from there to a token."""
    children = {
        child.process.pid: child for child in (fleet.start(), fleet.start()) if child.process
    }
    began_s = time.monotonic()
    job_id = await client.submit(prompt_of(count), ANSWER_TOKENS)
    first_s = await client.at_least(job_id, 1) - began_s
    await client.at_least(job_id, BEFORE_KILL)
    state = await client.queue.state(job_id)
    victim = next(child for pid, child in children.items() if f":{pid}:" in state.worker)
    victim.kill()
    killed_s = time.monotonic()
    known = len(await client.tokens(job_id))

    async def claimed() -> bool:
        return (await client.queue.state(job_id)).epoch > state.epoch

    claimed_s = await client.until(claimed)
    next_s = await client.at_least(job_id, known + 1)
    return {
        "prefill_s": first_s,
        "killed_to_claim_s": claimed_s - killed_s,
        "claim_to_token_s": next_s - claimed_s,
    }


async def restart(fleet: Fleet, client: Client, count: int) -> dict[str, float]:
    """Hold a turn, start the worker again, and return how long the next turn's first token takes."""
    worker = fleet.start()
    prompt = prompt_of(count)
    job_id = await client.submit(prompt, BEFORE_KILL)
    await client.at_least(job_id, BEFORE_KILL)
    prompt += [*await client.tokens(job_id), *prompt_of(NEXT_TURN_TOKENS)]
    fleet.stop(worker)
    fleet.start()
    began_s = time.monotonic()
    first_s = await client.at_least(await client.submit(prompt, 2), 1) - began_s
    return {"next_turn_s": first_s}


def write_models(options: argparse.Namespace, folder: Path) -> None:
    """Write a models file for the random model, with a longer context."""
    source = write_model(options.cache, options.shape)
    target = folder / "cache"
    target.mkdir()
    for file in source.iterdir():
        if file.name != "config.json":
            (target / file.name).symlink_to(file.resolve())
    config = json.loads((source / "config.json").read_text())
    context = options.tokens + ANSWER_TOKENS + NEXT_TURN_TOKENS + BEFORE_KILL
    config["max_position_embeddings"] = -(-context // 1024) * 1024
    (target / "config.json").write_text(json.dumps(config))
    (folder / "models.toml").write_text("")


async def measure(options: argparse.Namespace, folder: Path, *, stored: bool) -> dict[str, float]:
    """Make one round of both on fresh fleets."""
    figures: dict[str, float] = {}
    for scene in (failover, restart):
        store = Path(tempfile.mkdtemp(dir=folder)) if stored else None
        with fleet(folder, store) as running:
            async with connected(running.stack.redis_url) as client:
                figures |= await scene(running, client, options.tokens)
        if store is not None:
            shutil.rmtree(store)
    print(f"store {'on ' if stored else 'off'}: {_line(figures)}", flush=True)
    return figures


def _line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def main() -> None:
    """Print the figures with the store and without, and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1.1b")
    parser.add_argument("--tokens", type=int, default=8_000, help="of a prompt")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "penstock-bench"
    )
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    observed = conditions.observe()
    conditions.show(observed)
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-models-"))
    try:
        write_models(options, folder)
        rounds = [
            {
                stored: asyncio.run(measure(options, folder, stored=stored))
                for stored in (True, False)
            }
            for _ in range(options.rounds)
        ]
    finally:
        shutil.rmtree(folder)
    medians = {
        "on" if stored else "off": {
            name: statistics.median(one[stored][name] for one in rounds)
            for name in rounds[0][stored]
        }
        for stored in (True, False)
    }
    on, off = medians["on"], medians["off"]
    ratio = off["next_turn_s"] / on["next_turn_s"]
    print(f"store on, medians: {_line(on)}\nstore off: {_line(off)}")
    print(
        f"next token {on['claim_to_token_s']:.2f} s after the claim (prefill {off['prefill_s']:.1f} s); "
        f"next turn after a restart {ratio:.1f} times sooner"
    )
    if options.save:
        result = {"shape": options.shape, "tokens": options.tokens, "medians": medians}
        print(conditions.save("cache-restart", observed, {**result, "next_turn_ratio": ratio}))


if __name__ == "__main__":
    main()
