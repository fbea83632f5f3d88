"""Redis forgets jobs, or stays away for longer than anybody waits, under running streams."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from pydantic import RedisDsn

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.transport import keys
from penstock.transport.jobs import journal
from penstock.transport.store.connection import connect
from tests.fixtures.api import QUEUE, Fleet, drone, keepalives
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer
from tests.integration.api.test_resumption import ASK, COUNT, KEY, WHOLE, count_up, frames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from penstock.contract.job import Job
    from penstock.settings import Settings
    from tests.fixtures.api import Script

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")


def forget_everything(client: redis.Redis) -> None:
    """Do what a failover does to jobs that the replica had not heard of yet."""
    found = [*client.scan_iter(f"{keys.queue_prefix(QUEUE)}*"), *client.scan_iter("*:locate:*")]
    client.delete(QUEUE, *found)


def error_of(lines: list[str]) -> str:
    """Return the code of a stream's last frame."""
    (last,) = [line for line in lines if line.startswith("data: {")][-1:]
    return json.loads(last[6:])["error"]["code"]


def test_a_job_that_waited_is_submitted_again(fleet: Fleet, redis_client: redis.Redis) -> None:
    server = fleet.api(keepalive_s=0.2)  # the response begins with the first of them
    worker = fleet.worker(count_up)
    worker.accepting = False
    with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, timeout=30.0) as answer:
        wait_until(lambda: fleet.depth().waiting_jobs)
        forget_everything(redis_client)
        worker.accepting = True
        assert "".join(text for _, text in frames(answer)) == WHOLE


def test_a_job_that_ran_goes_on_where_its_client_is(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    server = fleet.api()
    worker = fleet.worker(count_up)
    worker.step_s = 0.01
    seen: list[tuple[int, str]] = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, timeout=30.0) as answer:
        for one in frames(answer):
            seen.append(one)
            if len(seen) == 5:
                forget_everything(redis_client)
    assert len(seen) == COUNT + 1
    assert "".join(text for _, text in seen) == WHOLE
    assert len(worker.jobs) == 2
    assert worker.jobs[0] == worker.jobs[1]


def test_a_job_that_comes_out_differently_is_an_error(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    turns: list[Job] = []

    def fickle(job: Job) -> Script:
        turns.append(job)
        for index in range(COUNT):
            yield Tokens(job.id, index, (index + len(turns),), f"{index} ")
        yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT))

    server = fleet.api()
    worker = fleet.worker(fickle)
    worker.step_s = 0.03
    lines: list[str] = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, timeout=30.0) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 9:
                forget_everything(redis_client)
    assert error_of(lines) == "store_unavailable"
    assert len(turns) == 2


def test_a_client_that_comes_back_to_a_lost_job_gets_the_rest_of_the_same_answer(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    first, second = fleet.api(), fleet.api()
    worker = fleet.worker(count_up)
    text, last = "", -1
    with httpx.stream("POST", f"{first.url}/v1/completions", json=ASK, headers=KEY) as answer:
        for event_id, piece in frames(answer):
            text, last = text + piece, event_id
            if last >= 5:
                break
    forget_everything(redis_client)
    headers = {**KEY, "Last-Event-ID": str(last)}
    with httpx.stream("POST", f"{second.url}/v1/completions", json=ASK, headers=headers) as answer:
        text += "".join(piece for _, piece in frames(answer))
    assert text == WHOLE
    seeds = {job.work.sampling.seed for job in worker.jobs}
    assert len(seeds) == 1, "without a seed of its own it would be another answer's rest"
    assert len(worker.jobs) == 2


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, append_only=True)
    server.start()
    yield server
    server.kill()


def test_past_our_patience_a_stream_ends_with_a_clear_error(
    own_redis: RedisServer, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(
        update={"redis_url": RedisDsn(own_redis.url), "redis_patience_s": 1.5}
    )
    with ExitStack() as stack:
        fleet = Fleet(settings, stack)
        server = fleet.api(keepalive_s=0.3)
        worker = fleet.worker(count_up)
        worker.step_s = 0.03
        lines: list[str] = []
        with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, timeout=30.0) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                if len(lines) == 9:
                    own_redis.kill()
        assert error_of(lines) == "store_unavailable"
        assert keepalives(lines), "it was waited for"
        assert "data: [DONE]" not in lines
        own_redis.start()
        wait_until(lambda: "tiny" in httpx.get(f"{server.url}/v1/models").text, 20.0)
        body = {**ASK, "stream": False}
        after = wait_until(
            lambda: (
                (found := httpx.post(f"{server.url}/v1/completions", json=body, timeout=30.0))
                and found.status_code == 200
                and found
            ),
            30.0,
        )
        assert after.json()["choices"][0]["text"] == WHOLE
        job_id = worker.jobs[0].id
        with connect(settings) as client:
            wait_until(lambda: ended(client, job_id), 20.0)
            events = journal.read(client, QUEUE, job_id)
        assert [event.index for event in events] == list(range(len(events)))


def test_a_clients_time_to_come_back_does_not_run_while_redis_is_away(
    own_redis: RedisServer, redis_settings: Settings
) -> None:
    grace_s = 1.5
    settings = redis_settings.model_copy(update={"redis_url": RedisDsn(own_redis.url)})
    with ExitStack() as stack:
        fleet = Fleet(settings, stack)
        server = fleet.api(resume_grace_s=grace_s)
        worker = fleet.worker(count_up)
        worker.step_s = 0.03
        text, last = "", -1
        with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, headers=KEY) as answer:
            for event_id, piece in frames(answer):
                text, last = text + piece, event_id
                if last >= 3:
                    break
        own_redis.kill()
        left_s = time.monotonic()
        wait_until(lambda: time.monotonic() - left_s > grace_s * 1.5)
        own_redis.start()
        # Whoever had waited for Redis only would have cancelled it by now.
        wait_until(lambda: server.services.replies.connected_s("") > grace_s / 4, 20.0)
        headers = {**KEY, "Last-Event-ID": str(last)}
        with httpx.stream(
            "POST", f"{server.url}/v1/completions", json=ASK, headers=headers, timeout=30.0
        ) as answer:
            text += "".join(piece for _, piece in frames(answer))
        assert text == WHOLE
        assert "cancelled" not in worker.dropped.values()
        # From then on it runs: a client that stays away now is not waited for.
        worker.script = drone
        other = {"Idempotency-Key": "another"}
        with httpx.stream(
            "POST", f"{server.url}/v1/completions", json=ASK, headers=other
        ) as answer:
            next(frames(answer))
        wait_until(lambda: "cancelled" in worker.dropped.values(), 20.0)


@pytest.mark.slow
def test_nearly_as_long_as_our_patience_ends_no_stream_and_loses_no_job(
    own_redis: RedisServer, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(
        update={"redis_url": RedisDsn(own_redis.url), "redis_patience_s": 20.0}
    )
    with ExitStack() as stack, ThreadPoolExecutor() as clients:
        fleet = Fleet(settings, stack)
        server = fleet.api(keepalive_s=1.0)
        worker = fleet.worker(count_up, slots=1)
        worker.step_s = 0.02
        url = f"{server.url}/v1/completions"
        with httpx.stream("POST", url, json=ASK, timeout=60.0) as answer:
            lines = answer.iter_lines()
            seen = [next(lines) for _ in range(9)]
            body = {**ASK, "stream": False}
            waiting = [clients.submit(httpx.post, url, json=body, timeout=60.0) for _ in range(3)]
            wait_until(lambda: fleet.depth().waiting_jobs == 3)
            own_redis.kill()
            gone_s = time.monotonic()
            # One that comes while Redis is away is accepted when it is back.
            waiting.append(clients.submit(httpx.post, url, json=body, timeout=60.0))
            wait_until(lambda: time.monotonic() - gone_s > 18.0, 30.0, poll_s=0.1)
            own_redis.start()
            seen += lines
        assert keepalives(seen) >= 10, "its client heard that it was waited for"
        texts = [json.loads(line[6:])["choices"][0]["text"] for line in seen if "choices" in line]
        assert "".join(texts) == WHOLE
        for one in waiting:
            assert one.result().status_code == 200
            assert one.result().json()["choices"][0]["text"] == WHOLE
        assert len({job.id for job in worker.jobs}) == 5


def test_a_redis_that_stands_still_is_a_pause(
    own_redis: RedisServer, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(update={"redis_url": RedisDsn(own_redis.url)})
    with ExitStack() as stack:
        fleet = Fleet(settings, stack)
        server = fleet.api()
        worker = fleet.worker(count_up)
        worker.step_s = 0.02
        seen: list[tuple[int, str]] = []
        with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, timeout=30.0) as answer:
            for one in frames(answer):
                seen.append(one)
                if len(seen) == 5:
                    # As a command does that takes so long: nobody's connection breaks.
                    own_redis.send(signal.SIGSTOP)
                    threading.Timer(3.0, own_redis.send, (signal.SIGCONT,)).start()
        assert len(seen) == COUNT + 1
        assert "".join(text for _, text in seen) == WHOLE


def ended(client: redis.Redis, job_id: str) -> bool:
    return client.hget(keys.job(QUEUE, job_id), "state") not in {b"waiting", b"running"}
