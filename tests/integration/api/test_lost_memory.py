"""Redis loses its memory, or the last part of it, while answers stream: one text, or an error."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import RedisDsn

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.transport import keys
from penstock.transport.store.connection import connect
from tests.fixtures.api import QUEUE, Fleet
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from penstock.contract.job import Job
    from penstock.settings import Settings
    from tests.fixtures.api import ApiServer, Script

pytestmark = pytest.mark.busy(
    reason="leases and patience of a second or less, beside three other tests"
)

COUNT = 300
ASK = {"model": "tiny", "prompt": "Once", "max_tokens": COUNT, "stream": True, "seed": 1}


def count_up(job: Job) -> Script:
    """Say the numbers, one or several a step, by what the clock says: as drafts are taken."""
    index = 0
    while index < COUNT:
        count = min(1 + time.monotonic_ns() % 3 if job.priority else 1, COUNT - index)
        ids = tuple(range(index, index + count))
        yield Tokens(job.id, index, ids, "".join(f"{one} " for one in ids))
        index += count
    yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT))


WHOLE = "".join(f"{one} " for one in range(COUNT))


class Fickle:
    """Says another number from the 40th on at each turn."""

    def __init__(self) -> None:
        self.turns = 0

    def __call__(self, job: Job) -> Script:
        self.turns += 1
        shift = self.turns * 1_000
        for index in range(COUNT):
            one = index + (shift if index >= 40 else 0)
            yield Tokens(job.id, index, (one,), f"{one} ")
        yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT))


def is_served(server: ApiServer) -> bool:
    """Whether the model is served by what Redis has now: a view is up to a second old."""
    server.refresh()
    return httpx.get(f"{server.url}/v1/models/tiny").status_code == 200


class Heard:
    """What one client has read of a stream."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.error = ""
        self.is_done = False

    def listen(self, url: str) -> Heard:
        key = {"Idempotency-Key": uuid.uuid4().hex}  # its events have ids
        with httpx.stream(
            "POST", f"{url}/v1/completions", json=ASK, headers=key, timeout=60.0
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    self.ids.append(int(line[4:].partition("-")[0]))
                elif line == "data: [DONE]":
                    self.is_done = True
                elif line.startswith("data: "):
                    self._take(json.loads(line[6:]))
        return self

    def _take(self, frame: dict) -> None:
        if "error" in frame:
            self.error = frame["error"]["code"]
        else:
            self.text += frame["choices"][0]["text"]

    def check(self) -> None:
        """Fail where it is neither the answer nor an error after a part of it."""
        assert self.ids == sorted(set(self.ids)), "event ids never go back"
        if self.error:
            assert self.error == "store_unavailable"
            assert not self.is_done
        else:
            assert self.is_done
            assert self.text == WHOLE
        assert WHOLE.startswith(self.text)


def test_memory_that_is_lost_again_and_again_splices_no_answer(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    server = fleet.api(keepalive_s=0.3)
    worker = fleet.worker(count_up, slots=16)
    worker.step_s = 0.01
    with ThreadPoolExecutor(12) as clients:
        streams = [Heard() for _ in range(12)]
        heard = [clients.submit(one.listen, server.url) for one in streams]
        wait_until(lambda: all(one.ids for one in streams), 20.0)
        for _ in range(3):
            redis_client.flushall()
            lost_s = time.monotonic()
            wait_until(lambda lost_s=lost_s: time.monotonic() - lost_s > 1.2, poll_s=0.05)
        done = [one.result(60.0) for one in heard]
    for one in done:
        one.check()
    assert any(one.is_done for one in done), "its memory is not lost for ever"


def test_answers_that_come_out_differently_are_errors(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    server = fleet.api(keepalive_s=0.3)
    worker = fleet.worker(Fickle())
    worker.step_s = 0.01
    with ThreadPoolExecutor(1) as clients:
        heard = Heard()
        done = clients.submit(heard.listen, server.url)
        for _ in range(2):
            before = len(heard.ids)
            wait_until(lambda before=before: len(heard.ids) > max(before, 60) or done.done())
            redis_client.flushall()
        done.result(60.0)
    assert heard.error == "store_unavailable"
    assert heard.ids == sorted(set(heard.ids))


def test_a_job_that_another_has_submitted_again_is_compared(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    """Redis loses all, and a client with the same key is the first to come back."""
    first, second = fleet.api(keepalive_s=0.3), fleet.api(keepalive_s=0.3)
    worker = fleet.worker(Fickle())
    worker.step_s = 0.01
    key = {"Idempotency-Key": "one"}
    seen: list[str] = []

    def listen(url: str) -> list[str]:
        with httpx.stream(
            "POST", f"{url}/v1/completions", json=ASK, headers=key, timeout=60.0
        ) as answer:
            seen.extend(answer.iter_lines())
        return seen

    with ThreadPoolExecutor(1) as clients:
        done = clients.submit(listen, first.url)
        wait_until(lambda: sum(line.startswith("id: ") for line in seen) > 60)
        redis_client.flushall()
        wait_until(lambda: is_served(second))
        with httpx.stream(
            "POST", f"{second.url}/v1/completions", json=ASK, headers=key, timeout=60.0
        ) as answer:
            whole = [line for line in answer.iter_lines() if line.startswith("id: ")]
        lines = done.result(60.0)
    assert len(whole) == COUNT + 1
    frames = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert frames[-1]["error"]["code"] == "store_unavailable"


def test_a_client_that_comes_back_to_another_text_gets_an_error(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    """Its id has a digest of what it has seen; the answer has come out differently since then."""
    first, second = fleet.api(keepalive_s=0.3), fleet.api(keepalive_s=0.3)
    fleet.worker(Fickle()).step_s = 0.01
    ask, key = {**ASK, "max_tokens": 50}, {"Idempotency-Key": "one"}
    last = ""
    url = "/v1/completions"
    with httpx.stream("POST", f"{first.url}{url}", json=ask, headers=key) as answer:
        for line in answer.iter_lines():
            last = line[4:] if line.startswith("id: ") else last
            if last.startswith("60-"):
                break

    def come_back(seen: str) -> list[dict[str, Any] | None]:
        """Return the error, or None, of each event; of none while workers announce themselves."""
        with httpx.stream(
            "POST",
            f"{second.url}{url}",
            json=ask,
            headers={**key, "Last-Event-ID": seen},
            timeout=60.0,
        ) as answer:
            lines = [line for line in answer.iter_lines() if "{" in line]
        errors = [json.loads(line.removeprefix("data: ")).get("error") for line in lines]
        return [] if errors[0] and errors[0]["code"] == "no_worker" else errors

    redis_client.flushall()
    for seen, frames in ((last, 0), ("20-" + "0" * 8, 0), ("60", COUNT - 60)):
        errors = wait_until(lambda seen=seen: come_back(seen))
        assert len([one for one in errors if one is None]) == frames
        if not frames:
            assert errors[-1]
            assert errors[-1]["code"] == "store_unavailable"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, append_only=True)
    server.start()
    yield server
    server.kill()


def aof(folder: Path) -> Path:
    """Return the file that a server appends to."""
    return max(folder.rglob("*.incr.aof"), key=os.path.getmtime)


@pytest.mark.parametrize("fickle", [False, True], ids=["the same text", "another text"])
def test_a_journal_that_is_shorter_than_what_was_sent(
    own_redis: RedisServer, redis_settings: Settings, fickle: bool
) -> None:
    """The last part of the append-only file is lost with the machine."""
    settings = redis_settings.model_copy(update={"redis_url": RedisDsn(own_redis.url)})
    with ExitStack() as stack:
        fleet = Fleet(settings, stack)
        server = fleet.api(keepalive_s=0.3)
        worker = fleet.worker(Fickle() if fickle else count_up)
        worker.step_s = 0.01
        clients = stack.enter_context(ThreadPoolExecutor(1))
        heard = Heard()
        done = clients.submit(heard.listen, server.url)
        wait_until(lambda: len(heard.ids) > 60)
        kept = aof(own_redis.folder).stat().st_size
        wait_until(lambda: len(heard.ids) > 120)
        own_redis.kill()
        os.truncate(aof(own_redis.folder), kept)
        own_redis.start()
        done.result(60.0)
        if fickle:
            assert heard.error == "store_unavailable"
            assert heard.ids == sorted(set(heard.ids))
        else:
            heard.check()
            assert heard.is_done


def test_an_append_only_file_that_is_gone(own_redis: RedisServer, redis_settings: Settings) -> None:
    settings = redis_settings.model_copy(update={"redis_url": RedisDsn(own_redis.url)})
    with ExitStack() as stack:
        fleet = Fleet(settings, stack)
        server = fleet.api(keepalive_s=0.3)
        worker = fleet.worker(count_up)
        worker.step_s = 0.01
        clients = stack.enter_context(ThreadPoolExecutor(1))
        heard = Heard()
        done = clients.submit(heard.listen, server.url)
        wait_until(lambda: len(heard.ids) > 60)
        own_redis.kill()
        for file in own_redis.folder.rglob("*.aof"):
            file.unlink()
        for file in own_redis.folder.rglob("*.manifest"):
            file.unlink()
        own_redis.start()
        done.result(60.0)
        heard.check()
        assert heard.is_done


def test_a_journal_of_something_else_ends_its_stream(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    server = fleet.api(keepalive_s=0.3)
    worker = fleet.worker(count_up)
    worker.step_s = 0.05
    heard = Heard()
    thread = threading.Thread(target=heard.listen, args=(server.url,))
    thread.start()
    wait_until(lambda: len(heard.ids) > 3)
    (job_id,) = [job.id for job in worker.jobs]
    worker.accepting = False
    redis_client.xadd(keys.journal(QUEUE, job_id), {"other": "1"}, id=f"1-{COUNT * 2}")
    with connect(fleet.settings) as client:
        client.client_kill_filter(_type="pubsub")
    thread.join(30.0)
    assert not thread.is_alive()
    assert heard.error == "store_unavailable"


@pytest.mark.parametrize("key", [keys.MODELS, keys.model(QUEUE)])
def test_a_served_model_whose_key_was_deleted_is_not_unknown(
    fleet: Fleet, redis_client: redis.Redis, key: str
) -> None:
    server = fleet.api()
    fleet.worker(count_up)
    wait_until(lambda: httpx.get(f"{server.url}/v1/models/tiny").status_code == 200)
    redis_client.delete(key)
    end_s = time.monotonic() + 1.5
    while time.monotonic() < end_s:
        answer = httpx.get(f"{server.url}/v1/models/tiny")
        assert answer.status_code in {200, 503}, answer.text
        redis_client.delete(key)
    wait_until(lambda: httpx.get(f"{server.url}/v1/models/tiny").status_code == 200)


def test_a_served_model_is_never_unknown(fleet: Fleet, redis_client: redis.Redis) -> None:
    """Not to a process that has seen it, nor to one that is started just then."""
    server = fleet.api()
    fleet.worker(count_up).step_s = 0.001
    ask = {**ASK, "stream": False, "max_tokens": 4}
    redis_client.flushall()
    servers = [server, fleet.api()]
    seen: set[int] = set()
    end_s = time.monotonic() + 3.0
    while time.monotonic() < end_s or 200 not in seen:
        for one in servers:
            for answer in (
                httpx.post(f"{one.url}/v1/completions", json=ask, timeout=30.0),
                httpx.get(f"{one.url}/v1/models/tiny"),
            ):
                seen.add(answer.status_code)
                assert answer.status_code in {200, 503}, answer.text
                if answer.status_code == 503:
                    assert int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() < end_s + 20.0
