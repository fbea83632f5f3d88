"""Jobs go to the worker that holds their prompt's beginning, if nobody has to wait for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.job import Head
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, Row, WorkerQueue
from penstock.transport.jobs.records import PrefixHolder
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from penstock.settings import Settings
    from penstock.transport.jobs.records import Claims

SLOTS = 8
TOKEN_S = 0.01
"""So slow that a head of 1,000 tokens is worth the longest wait."""


def conversation(name: int, turns: int, tokens_a_turn: int = 1000) -> tuple[Head, ...]:
    """Return the heads of a conversation's turn; its earlier turns' are among them."""
    return tuple(
        Head(f"{name:04x}{turn:04x}", (turn + 1) * tokens_a_turn, kept=turn == turns - 1)
        for turn in range(turns)
    )


class Fleet:
    """Two live workers of one queue; `claim` does as their preparers do."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client: Any = client
        self.workers = {name: WorkerQueue(client, settings, name) for name in ("w1", "w2")}
        self.running: dict[str, list[str]] = {name: [] for name in self.workers}
        client.zadd(keys.workers_of(QUEUE), dict.fromkeys(self.workers, "+inf"))
        client.expire(keys.workers_of(QUEUE), 60)

    def claim(self, name: str, most: int = 1, token_s: float = TOKEN_S) -> Claims:
        held = len(self.running[name])
        claims = self.workers[name].claim_many(
            QUEUE, most, least=1, held=held, slots=SLOTS, token_s=token_s
        )
        self.running[name] += [claim.job.id for claim in claims.claims]
        return claims

    def ids(self, name: str, most: int = 1) -> list[str]:
        return [claim.job.id for claim in self.claim(name, most).claims]

    def finish(self, name: str) -> None:
        """End all that a worker runs."""
        rows = [
            row
            for job_id in self.running[name]
            for row in (Row(job_id, 1, tokens(job_id, 0)), Row(job_id, 1, finished(job_id, 1)))
        ]
        assert self.workers[name].append(QUEUE, rows) == []
        self.running[name].clear()

    def called(self, name: str) -> int:
        return self.client.llen(keys.called(QUEUE, name))

    def taken(self, name: str) -> int:
        return int(self.client.hget(keys.taken(QUEUE), name))


@pytest.fixture
def fleet(redis_client: redis.Redis, redis_settings: Settings) -> Fleet:
    return Fleet(redis_client, redis_settings)


async def submit(jobs: JobQueue, *named: tuple[str, Sequence[Head]], **fields: Any) -> None:
    for name, heads in named:
        await jobs.submit(make_job(id=name, heads=tuple(heads), **fields))


async def begin(jobs: JobQueue, fleet: Fleet, worker: str, *conversations: int) -> None:
    """Let a worker compute the first turn of conversations."""
    for number in conversations:
        await submit(jobs, (f"first-{number}", conversation(number, 1)))
        assert fleet.ids(worker) == [f"first-{number}"]
    fleet.finish(worker)


async def test_the_next_turn_is_left_to_the_worker_that_had_the_last_one(
    jobs: JobQueue, fleet: Fleet
) -> None:
    await begin(jobs, fleet, "w1", 1)
    await submit(jobs, ("second", conversation(1, 2)))
    claims = fleet.claim("w2")
    assert claims.claims == ()
    assert claims.again_s
    assert 0.3 < claims.again_s <= 0.5
    assert (fleet.called("w1"), fleet.called("w2")) == (1, 0)
    claims = fleet.claim("w1")
    assert [(claim.job.id, claim.prefix) for claim in claims.claims] == [
        ("second", PrefixHolder.THIS)
    ]


async def test_it_waits_no_longer_than_its_prefill_takes(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", 1)
    await submit(jobs, ("second", conversation(1, 2)))
    claims = fleet.claim("w2", token_s=0.0001)
    assert claims.claims == ()
    assert claims.again_s
    assert claims.again_s <= 0.1
    (claim,) = wait_until(lambda: fleet.claim("w2", token_s=0.0001).claims, 2.0)
    assert (claim.job.id, claim.prefix) == ("second", PrefixHolder.OTHER)
    # It holds the conversation from now on.
    fleet.finish("w2")
    await submit(jobs, ("third", conversation(1, 3)))
    assert fleet.ids("w1") == []
    assert fleet.ids("w2") == ["third"]


async def test_what_saves_nothing_is_not_waited_for(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", 1)
    await submit(jobs, ("second", conversation(1, 2)))
    assert [c.job.id for c in fleet.claim("w2", token_s=0.000001).claims] == ["second"]


async def test_a_full_or_busier_holder_is_not_waited_for(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", 1, 2)
    await submit(jobs, *((f"busy-{number}", ()) for number in range(3)))
    assert [len(fleet.ids("w1")) for _ in range(3)] == [1, 1, 1]
    assert fleet.taken("w1") == 3
    await submit(jobs, ("second", conversation(1, 2)))
    assert fleet.ids("w2") == ["second"]
    fleet.finish("w1")
    assert fleet.taken("w1") == 0
    fleet.finish("w2")
    await submit(jobs, ("another", conversation(2, 2)))
    assert fleet.ids("w2") == []
    assert fleet.ids("w1") == ["another"]


async def test_a_dead_holder_is_not_waited_for(
    jobs: JobQueue, fleet: Fleet, redis_client: redis.Redis
) -> None:
    await begin(jobs, fleet, "w1", 1)
    redis_client.zadd(keys.workers_of(QUEUE), {"w1": 1})
    await submit(jobs, ("second", conversation(1, 2)))
    assert fleet.ids("w2") == ["second"]


async def test_a_worker_prefers_what_it_holds_and_passes_no_job_by_for_long(
    jobs: JobQueue, fleet: Fleet
) -> None:
    await begin(jobs, fleet, "w1", *range(7))
    await submit(jobs, ("new", conversation(99, 1)))
    await submit(jobs, *((f"second-{number}", conversation(number, 2)) for number in range(7)))
    order = [fleet.ids("w1")[0] for _ in range(8)]
    assert order == [*(f"second-{number}" for number in range(4)), "new", *order[5:]]


async def test_a_job_that_is_gone_leaves_no_key_when_it_is_passed_by(
    jobs: JobQueue, fleet: Fleet
) -> None:
    await begin(jobs, fleet, "w1", 1)
    await submit(jobs, ("gone", ()), ("second", conversation(1, 2)))
    fleet.client.delete(keys.job(QUEUE, "gone"))
    assert fleet.ids("w1") == ["second"]
    assert not fleet.client.exists(keys.job(QUEUE, "gone"))
    assert fleet.ids("w1") == []


async def test_turns_of_tenants_stay_as_they_are(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", *range(8))
    fields: dict[str, Any] = {"cost_tokens": 10}
    for number in range(8):
        await submit(jobs, (f"a-{number}", conversation(number, 2)), tenant="a", **fields)
        await submit(jobs, (f"b-{number}", ()), tenant="b", **fields)
    order = [fleet.ids("w1")[0][0] for _ in range(16)]
    assert all(sorted(order[turn : turn + 2]) == ["a", "b"] for turn in range(0, 16, 2))


async def test_priorities_and_returned_jobs_go_first(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", 1, 2)
    await submit(jobs, ("own", conversation(1, 2)))
    await submit(jobs, ("urgent", ()), priority=1)
    assert fleet.ids("w1") == ["urgent"]
    await submit(jobs, ("back", conversation(2, 2)))
    assert [fleet.ids("w1")[0] for _ in range(2)] == ["own", "back"]
    assert fleet.workers["w1"].release(QUEUE, "back", 1)
    # A returned job waits for nobody.
    assert fleet.ids("w2") == ["back"]


async def test_a_worker_that_leaves_a_job_may_take_another(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", 1)
    await submit(jobs, ("second", conversation(1, 2)), tenant="a")
    await submit(jobs, ("other", ()), tenant="b")
    claims = fleet.claim("w2", 2)
    assert [claim.job.id for claim in claims.claims] == ["other"]
    assert claims.again_s
    assert fleet.ids("w1") == ["second"]


async def test_heads_that_a_cache_has_lost_are_forgotten(jobs: JobQueue, fleet: Fleet) -> None:
    await begin(jobs, fleet, "w1", 1)
    fleet.workers["w1"].forget_heads(QUEUE, [conversation(1, 1)[0].digest])
    await submit(jobs, ("second", conversation(1, 2)))
    (claim,) = fleet.claim("w2").claims
    assert claim.prefix is PrefixHolder.NONE


async def test_it_can_be_turned_off(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    fleet = Fleet(redis_client, redis_settings.model_copy(update={"affinity_wait_ms": 0}))
    await begin(jobs, fleet, "w1", 1)
    await submit(jobs, ("second", conversation(1, 2)))
    assert fleet.ids("w2") == ["second"]
    assert not redis_client.exists(keys.holders(QUEUE))


async def test_what_is_known_is_bounded(jobs: JobQueue, fleet: Fleet) -> None:
    many = tuple(Head(f"{number:08x}", number + 1, kept=True) for number in range(1100))
    await submit(jobs, ("many", many))
    assert fleet.ids("w1") == ["many"]
    assert fleet.client.zcard(keys.heads(QUEUE, "w1")) == 1024
    assert fleet.client.hlen(keys.holders(QUEUE)) == 1024
    for key in (keys.heads(QUEUE, "w1"), keys.holders(QUEUE), keys.taken(QUEUE)):
        assert 0 < fleet.client.ttl(key) <= 86_400


@pytest.mark.parametrize("key", ["holders", "heads", "taken", "called"])
async def test_a_key_of_another_type_costs_no_more_than_a_prefill(
    jobs: JobQueue, fleet: Fleet, key: str
) -> None:
    names: dict[str, Callable[[], str]] = {
        "holders": lambda: keys.holders(QUEUE),
        "heads": lambda: keys.heads(QUEUE, "w2"),
        "taken": lambda: keys.taken(QUEUE),
        "called": lambda: keys.called(QUEUE, "w1"),
    }
    await begin(jobs, fleet, "w1", 1)
    fleet.client.delete(names[key]())
    fleet.client.set(names[key](), "foreign", ex=60)
    await submit(jobs, ("second", conversation(1, 2)))
    (claim,) = wait_until(lambda: fleet.claim("w2").claims, 3.0)
    assert claim.job.id == "second"
    fleet.finish("w2")
