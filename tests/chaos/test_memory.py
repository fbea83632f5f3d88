"""What the judgement of a soak's memory finds, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from penstock.transport import keys
from tests.chaos.memory import drifts
from tests.chaos.redis_memory import RedisSample, excesses, look

if TYPE_CHECKING:
    import redis

    from tests.fixtures.redis import RedisServer

SAMPLE = RedisSample(
    resident=17.0, data=10.0, peak=10.0, keys=3000, shared=0.3, per_job=6.0, jobs=900, asked=1000,
    clients=40,
)  # fmt: skip
FEW = replace(SAMPLE, resident=9.0, data=3.0, jobs=50, asked=1000, per_job=2.0)


def judged(late: RedisSample) -> list[str]:
    """What is found if the last quarter ends with this sample."""
    return excesses([[SAMPLE, FEW], [SAMPLE, FEW], [SAMPLE], [FEW, late, late, late]])


@pytest.mark.parametrize(
    "late",
    [
        replace(SAMPLE, resident=34.0, data=24.0, peak=24.0, jobs=2400, asked=2500),
        replace(SAMPLE, resident=17.0, data=3.0, jobs=10, per_job=0.0),
        replace(SAMPLE, per_job=7.0, shared=0.8),
    ],
    ids=["more jobs", "after FLUSHALL", "a little more"],
)
def test_more_jobs_in_flight_may_take_more(late: RedisSample) -> None:
    assert judged(late) == []


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (replace(SAMPLE, shared=1.5), "belong to no job went from 0.3 to 1.5 MiB"),
        (replace(SAMPLE, per_job=8.0), "a job leaves in Redis went from 6.0 to 8.0 KiB"),
        (replace(SAMPLE, jobs=1400), "had 1400 jobs when 1000"),
        (replace(SAMPLE, resident=23.0), "took 23.0 MiB"),
    ],
)
def test_what_no_job_explains_is_found(late: RedisSample, words: str) -> None:
    [line] = judged(late)
    assert words in line


def test_a_process_that_grows_by_a_tenth_has_drifted() -> None:
    assert drifts({"api": [80, 90, 95, 98.9], "redis resident": [1, 2, 3, 9]}) == []
    assert len(drifts({"api": [80, 90, 95, 99.1], "spared worker": [9, 400, 400, 441]})) == 2


def test_a_sample_of_redis(redis_client: redis.Redis, redis_server: RedisServer) -> None:
    for number in range(5):
        redis_client.set(keys.job("q", f"{number:032x}"), b"x" * 10_000, ex=60)
        redis_client.set(keys.journal("q", f"{number:032x}"), b"x" * 20_000, ex=60)
    redis_client.set(keys.counters("q"), b"x" * 100_000, ex=60)
    sample = look(redis_client, redis_server.pid, 7)
    assert (sample.jobs, sample.asked) == (5, 7)
    assert 28 < sample.per_job < 60
    assert 0.09 < sample.shared < 0.2
    assert 0 < sample.data <= sample.peak
    assert sample.resident > 2
    assert sample.clients >= 1
