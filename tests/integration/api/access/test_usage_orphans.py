"""What a killed API process cannot write into the usage log any more, another one does, once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.transport import keys
from penstock.transport.accounts import usage_log
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.jobs.queue import JobQueue
from tests.fixtures.api import QUEUE, WORDS, speak
from tests.fixtures.jobs import wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    import redis.asyncio

    from penstock.contract.job import Job
    from penstock.settings import Settings
    from penstock.transport.accounts.usage_log import UsageRow
    from tests.fixtures.api import Fleet, Script
    from tests.fixtures.processes import Processes, Running

GRACE_S = 1.0
ASK = {"model": "tiny", "prompt": "Once", "stream": True, "max_tokens": 9}


class Held:
    """A script that says one word, then waits to be let go."""

    def __init__(self) -> None:
        self.may_end = False

    def __call__(self, job: Job) -> Script:
        script = speak(job)
        yield next(script)
        while not self.may_end:
            yield None
        yield from script


@pytest.fixture
def secret(redis_client: redis.Redis) -> Iterator[str]:
    """A key of ann's."""
    desk = KeyDesk(redis_client, 5.0)
    _, secret = desk.make("ann")
    yield secret
    desk.revoke("ann")


def start(processes: Processes, redis_url: str, **env: str) -> Running:
    grace = {"PENSTOCK_RESUME_GRACE_S": str(GRACE_S)}
    api = processes.start_api(redis_url, env={**grace, **env})
    wait_until(lambda: httpx.get(f"{api.url}/ready").status_code == 200)
    return api


def rows(client: redis.Redis) -> list[UsageRow]:
    return list(usage_log.read(client, 0, 5.0))


def headers(secret: str, name: str, **more: str) -> dict[str, Any]:
    return {"authorization": f"Bearer {secret}", "x-request-id": name, **more}


def ask(api: Running, given: dict[str, Any], upon_first: Any = lambda: None) -> str:
    """Stream an answer; call `upon_first` after the first frame. What came of it is the result."""
    text = ""
    url = f"{api.url}/v1/completions"
    try:
        with httpx.stream("POST", url, json=ASK, headers=given, timeout=20.0) as answer:
            for line in answer.iter_lines():
                text += line
                if line.startswith("data:"):
                    upon_first()
                    upon_first = lambda: None  # noqa: E731
    except httpx.HTTPError:
        text += "(cut)"
    return text


def unheard(client: redis.Redis) -> int:
    return client.zcard(keys.unheard(QUEUE))


def test_a_killed_processs_requests_are_accounted_for_by_another(
    processes: Processes, fleet: Fleet, redis_client: redis.Redis, redis_url: str, secret: str
) -> None:
    held = Held()
    fleet.worker(held)
    dying, other = (start(processes, redis_url) for _ in range(2))
    assert ask(dying, headers(secret, "killed"), dying.kill).endswith("(cut)")
    held.may_end = True
    assert ask(other, headers(secret, "whole")).endswith("[DONE]")
    wait_until(lambda: len(rows(redis_client)) == 2)
    wait_until(lambda: unheard(redis_client) == 0)
    time.sleep(3 * GRACE_S)  # nobody does it again
    found = {row.request_id: row for row in rows(redis_client)}
    assert len(rows(redis_client)) == len(found) == 2
    killed, whole = found["killed"], found["whole"]
    for row in (killed, whole):
        assert (row.key_name, row.model, row.queue) == ("ann", "tiny", QUEUE)
        assert (row.outcome, row.answers) == ("ok", 1)
        assert (row.prompt_tokens, row.completion_tokens) == (3, len(WORDS))
    assert killed.key == whole.key
    assert not any(
        redis_client.hexists(key, "job") for key in redis_client.scan_iter(keys.job(QUEUE, "*"))
    )


def test_who_comes_back_is_accounted_for_where_he_came(
    processes: Processes, fleet: Fleet, redis_client: redis.Redis, redis_url: str, secret: str
) -> None:
    held = Held()
    fleet.worker(held)
    dying, other = (start(processes, redis_url) for _ in range(2))
    given = headers(secret, "again", **{"idempotency-key": "k"})
    ask(dying, given, dying.kill)
    held.may_end = True
    wait_until(lambda: unheard(redis_client) == 1)
    assert ask(other, given).endswith("[DONE]")
    wait_until(lambda: len(rows(redis_client)) == 1)
    assert unheard(redis_client) == 0
    time.sleep(3 * GRACE_S)
    (row,) = rows(redis_client)
    assert (row.outcome, row.completion_tokens) == ("ok", len(WORDS))


async def test_who_leaves_a_living_process_is_not_accounted_for_twice(
    fleet: Fleet,
    redis_client: redis.Redis,
    async_redis: redis.asyncio.Redis,
    redis_settings: Settings,
) -> None:
    held = Held()
    worker = fleet.worker(held)
    server = fleet.api(resume_grace_s=60.0)
    given = {"idempotency-key": "k", "x-request-id": "left"}
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=ASK, headers=given, timeout=20.0
    ) as answer:
        assert next(answer.iter_lines())
    (job,) = worker.jobs
    await wait_until_async(lambda: redis_client.hexists(keys.job(QUEUE, job.id), "left"))
    wait_until(lambda: len(rows(redis_client)) == 1)
    server.stop()
    held.may_end = True
    queue = JobQueue(async_redis, redis_settings)

    async def has_ended() -> bool:
        return (await queue.state(job.id)).status == "finished"

    await wait_until_async(has_ended)
    assert unheard(redis_client) == 0
    assert not redis_client.hexists(keys.job(QUEUE, job.id), "job")
