"""Many jobs in the same instant, at real workers: slots, bells and counts come out even."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from penstock.contract.events import Finished
from penstock.transport import keys
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.processes import inspect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import redis

    from tests.fixtures.processes import Processes
    from tests.fixtures.submitting import Submitter

QUEUE = "tiny-llama-cpu"
SLOTS = 8
LONG = 400


def pool_of(redis_url: str) -> dict[str, Any]:
    """What the only worker's pool says of itself to remote control."""
    done = inspect(redis_url, "stats", "-j", "-t", "10")
    done.check_returncode()
    (stats,) = json.loads(done.stdout.splitlines()[-1]).values()
    return stats["pool"]


async def submit_at_once(submitter: Submitter, count: int, **options: Any) -> list[str]:
    return list(await asyncio.gather(*(submitter.submit(QUEUE, **options) for _ in range(count))))


def is_at_rest(client: redis.Redis) -> bool:
    """Whether no bell is left, in the list or unacknowledged."""
    return not client.llen(QUEUE) and not client.hlen("unacked")


def running(submitter: Submitter, count: int) -> Callable[[], Awaitable[bool]]:
    async def as_many() -> bool:
        return (await submitter.queue.depth(QUEUE)).running >= count

    return as_many


async def test_jobs_at_once_fill_all_slots_and_no_bell_is_left(
    processes: Processes,
    submitter: Submitter,
    redis_client: redis.Redis,
    redis_url: str,
    models_dir: Path,
):
    worker = processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", str(SLOTS)))
    for _ in range(2):
        jobs = await submit_at_once(submitter, 3 * SLOTS, max_tokens=LONG)
        await wait_until_async(running(submitter, SLOTS), 30.0)
        most = 0
        answers = []
        for job_id in jobs:
            most = max(most, (await submitter.queue.depth(QUEUE)).running)
            answers.append(await submitter.answer(QUEUE, job_id))
        assert most == SLOTS
        assert len({answer.text for answer in answers}) == 1
        assert all(isinstance(answer.end, Finished) for answer in answers)
        for job_id in jobs:
            state = await submitter.queue.state(job_id)
            assert (state.epoch, state.lost) == (1, 0)
        wait_until(lambda: is_at_rest(redis_client), 10.0)
    pool = await asyncio.to_thread(pool_of, redis_url)
    assert (pool["taken"], pool["paused"]) == ({QUEUE: 0}, [])
    # It hears of what comes now, and at once.
    assert isinstance((await submitter.ask(QUEUE)).end, Finished)
    assert worker.stop() == 0
    assert "Traceback" not in worker.output()


async def test_jobs_that_trickle_in_are_all_taken(
    processes: Processes,
    submitter: Submitter,
    redis_client: redis.Redis,
    redis_url: str,
    models_dir: Path,
):
    processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", str(SLOTS)))
    jobs: list[str] = []
    for pause_s in (0.0, 0.001, 0.003, 0.006, 0.02):
        for _ in range(2 * SLOTS):
            jobs.append(await submitter.submit(QUEUE))
            await asyncio.sleep(pause_s)
    for job_id in jobs:
        assert isinstance((await submitter.answer(QUEUE, job_id)).end, Finished)
    wait_until(lambda: is_at_rest(redis_client), 10.0)


async def test_a_worker_killed_with_what_it_has_just_claimed_loses_nothing(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    env = {"PENSTOCK_LEASE_MS": "500"}
    undisturbed = None
    for kill_at in (1, SLOTS):
        first = processes.start_worker(QUEUE, redis_url, models_dir, env=env, options=("-c", "8"))
        undisturbed = undisturbed or (await submitter.ask(QUEUE, max_tokens=LONG)).text
        jobs = await submit_at_once(submitter, 2 * SLOTS, max_tokens=LONG)
        await wait_until_async(running(submitter, kill_at), 30.0)
        first.kill()
        second = processes.start_worker(QUEUE, redis_url, models_dir, env=env, options=("-c", "8"))
        for job_id in jobs:
            answer = await submitter.answer(QUEUE, job_id)
            assert answer.text == undisturbed
            assert (await submitter.queue.state(job_id)).lost <= 1
        assert second.stop() == 0


async def test_two_idle_workers_share_what_comes_at_once(
    processes: Processes,
    submitter: Submitter,
    redis_client: redis.Redis,
    redis_url: str,
    models_dir: Path,
):
    for _ in range(2):
        processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "32"))
    wait_until(lambda: redis_client.zcard(keys.workers_of(QUEUE)) == 2)
    # A busy machine may hold one of them up just then: then a bell brings the other some of its share.
    assert max([await fewest_of_two(submitter) for _ in range(3)]) >= 8


async def fewest_of_two(submitter: Submitter) -> int:
    """How many of 24 jobs that come at once the worker with fewer of them takes."""
    jobs = await submit_at_once(submitter, 24, max_tokens=LONG)
    await wait_until_async(running(submitter, 24), 30.0)
    holders = [(await submitter.queue.state(job_id)).worker for job_id in jobs]
    for job_id in jobs:
        assert isinstance((await submitter.answer(QUEUE, job_id)).end, Finished)
    return min(holders.count(holders[0]), 24 - holders.count(holders[0]))
