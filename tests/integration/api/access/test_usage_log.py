"""Rows of the usage log outlive an absence of Redis, and are written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from penstock.transport import keys
from penstock.transport.accounts import usage_log
from penstock.transport.accounts.usage_log import UsageLog, UsageRow

if TYPE_CHECKING:
    from penstock.settings import Settings


def row(number: int) -> UsageRow:
    return UsageRow(
        time=usage_log.now(), key="k", key_name="ann", model="tiny", queue="tiny-cpu",
        outcome="ok", prompt_tokens=1, cached_tokens=0, completion_tokens=1, answers=1,
        duration_s=0.1, request_id=f"req-{number}",
    )  # fmt: skip


class Fickle:
    """The log's script; `before` and `after` are errors that calls meet, in turn."""

    def __init__(self, log: UsageLog) -> None:
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self._genuine: Any = log._script
        log._script = self

    async def __call__(self, **options: Any) -> None:
        if self.before:
            raise self.before.pop()
        await self._genuine(**options)
        if self.after:
            raise self.after.pop()


@pytest.fixture
def log(async_redis: redis.asyncio.Redis, redis_settings: Settings) -> UsageLog:
    return UsageLog(async_redis, redis_settings)


def written(client: redis.Redis) -> list[str]:
    return [one.request_id for one in usage_log.read(client, 0, 1.0)]


async def test_what_could_not_be_written_is_written_later_and_in_order(
    log: UsageLog, redis_client: redis.Redis
) -> None:
    fickle = Fickle(log)
    fickle.before = [redis.ConnectionError("away"), ConnectionResetError(), redis.TimeoutError()]
    for number in range(3):
        await log.add(row(number))
    assert (log.pending, written(redis_client)) == (3, [])
    await log.add(row(3))
    assert log.pending == 0
    assert written(redis_client) == [f"req-{number}" for number in range(4)]
    assert redis_client.ttl(keys.USAGE) > 86_400


async def test_what_was_written_without_an_answer_is_not_written_again(
    log: UsageLog, redis_client: redis.Redis
) -> None:
    fickle = Fickle(log)
    await log.add(row(0))
    fickle.after = [redis.ConnectionError("cut off")]
    await log.add(row(1))
    assert log.pending == 1
    await log.add(row(2))
    await log.flush()
    assert written(redis_client) == ["req-0", "req-1", "req-2"]


async def test_past_the_bound_the_oldest_are_dropped_and_counted(
    log: UsageLog,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(usage_log, "MOST_PENDING", 2)
    fickle = Fickle(log)
    fickle.before = [redis.ConnectionError("away")] * 4
    for number in range(4):
        await log.add(row(number))
    await log.flush()
    assert written(redis_client) == ["req-2", "req-3"]
    assert "2 rows are missing from the usage log" in caplog.text


async def test_more_than_a_page_is_written_at_once(
    log: UsageLog, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_log, "PAGE", 2)
    fickle = Fickle(log)
    fickle.before = [redis.ConnectionError("away")] * 5
    for number in range(5):
        await log.add(row(number))
    await log.flush()
    assert len(written(redis_client)) == 5
