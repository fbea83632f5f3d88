"""A key of ours has another type: 503 in bounded time, the key in the log, and back when it is gone."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import RedisDsn

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.store.connection import connect
from tests.fixtures.api import QUEUE, ApiServer, Fleet, ScriptedWorker
from tests.fixtures.clerk import Clerk
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer, establish

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.contract.job import Job
    from tests.fixtures.api import Script

BOUND_S = 15.0
COUNT = 4
ASK = {"model": "tiny", "prompt": "Once", "max_tokens": COUNT, "stream": True, "seed": 1}
PREFIX = keys.queue_prefix(QUEUE)

# Each row of the table in `penstock.transport.keys`, with the key that stands for it here. Those of a
# job, a claim, a document or a batch have tests of their own, or a name that nobody can guess.
OF_ALL = {
    "<queue>": QUEUE,
    "penstock:{q}:tenants:<priority>": f"{PREFIX}tenants:0",
    "penstock:{q}:served:<priority>": f"{PREFIX}served:5",
    "penstock:{q}:arrivals": keys.arrivals(QUEUE),
    "penstock:{q}:returned": f"{PREFIX}returned",
    "penstock:{q}:leases": keys.leases(QUEUE),
    "penstock:{q}:deadlines": f"{PREFIX}deadlines",
    "penstock:{q}:unheard": keys.unheard(QUEUE),
    "penstock:{q}:counters": keys.counters(QUEUE),
    "penstock:{q}:workers": keys.workers_of(QUEUE),
    "penstock:{q}:holders": keys.holders(QUEUE),
    "penstock:{q}:taken": keys.taken(QUEUE),
    "penstock:{q}:utility": keys.tokenizer_calls(QUEUE),
    "penstock:{q}:loaders": keys.loaders_of(QUEUE),
    "penstock:{q}:loading": keys.loading(QUEUE),
    "penstock:{q}:load_tries": keys.load_tries(QUEUE),
    "penstock:{q}:answer_scopes": f"{PREFIX}answer_scopes",
    "penstock:{q}:answer_bytes": f"{PREFIX}answer_bytes",
    "penstock:workers": keys.WORKERS,
    "penstock:store": keys.STORE,
    "penstock:models": keys.MODELS,
    "penstock:model:<queue>": keys.model(QUEUE),
    "penstock:keys": keys.API_KEYS,
    "penstock:keys:required": keys.KEYS_REQUIRED,
    "penstock:adapters": keys.ADAPTERS,
    "penstock:<kind>:open": keys.open_documents("response"),
    "penstock:usage": keys.USAGE,
    "penstock:fastchat:workers": keys.PEERS,
    "penstock:fastchat:prober": keys.PEER_PROBER,
}
OF_THE_SUBJECT = {
    "penstock:{q}:waiting:<priority>:<tenant>", "penstock:limit:<key>",
    "penstock:quota:<key>:<day or month>", "penstock:worker:<id>", "penstock:drain:<id>",
    "penstock:history:<minute>", "{penstock:usage}:written:<process>",
}  # fmt: skip
OF_ONE_JOB = {
    "penstock:{q}:job:<id>", "penstock:{q}:journal:<id>", "penstock:locate:<id>",
    "penstock:<kind>:<id>",
}  # fmt: skip
UNGUESSABLE = {
    "penstock:{q}:claim:<token>", "penstock:lease:<name>", "penstock:fastchat:worker:<hash>",
    "penstock:reply:<process>", "penstock:image:<digest>", "penstock:{q}:answers:<hash>",
    "penstock:{q}:heads:<worker>", "penstock:{q}:called:<worker>",
}  # fmt: skip

REFUSED = {
    "<queue>", "penstock:{q}:tenants:<priority>", "penstock:{q}:served:<priority>",
    "penstock:{q}:arrivals", "penstock:{q}:returned", "penstock:{q}:leases",
    "penstock:{q}:deadlines", "penstock:{q}:counters", "penstock:{q}:workers", "penstock:keys",
    "penstock:{q}:waiting:<priority>:<tenant>", "penstock:limit:<key>",
    "penstock:quota:<key>:<day or month>",
}  # fmt: skip
"""Without these no completion can be made; the others are beside its way."""


def brief(job: Job) -> Script:
    for index in range(COUNT):
        yield Tokens(job.id, index, (index,), f"{index} ")
    yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT))


LONG = 150


def slow(job: Job) -> Script:
    for index in range(LONG):
        yield Tokens(job.id, index, (index,), f"{index} ")
    yield Finished(job.id, LONG, FinishReason.STOP, Usage(1, LONG))


class Subject:
    """An API, a worker of one model, a clerk for small calls, and a key with limits."""

    def __init__(
        self, server: ApiServer, worker: ScriptedWorker, client: redis.Redis, key: tuple[str, str]
    ) -> None:
        self.server, self.worker, self.redis = server, worker, client
        self.key_id, secret = key
        self.http = httpx.Client(
            base_url=server.url, timeout=BOUND_S, headers={"authorization": f"Bearer {secret}"}
        )

    def key_of(self, row: str) -> str:
        """Return the key that stands for a row of the table."""
        if row in OF_ALL:
            return OF_ALL[row]
        minute = int(time.time()) // 60
        day = time.strftime("%Y-%m-%d", time.gmtime())
        job = self.worker.jobs[-1]
        usage: str = self.server.services.usage._keys[1]
        return {
            "penstock:{q}:waiting:<priority>:<tenant>": (
                f"{PREFIX}waiting:{job.priority}:{job.tenant}"
            ),
            "penstock:limit:<key>": keys.limit(self.key_id),
            "penstock:quota:<key>:<day or month>": keys.quota(self.key_id, day),
            "penstock:worker:<id>": keys.worker(self.worker._id),
            "penstock:drain:<id>": keys.drain(self.worker._id),
            "penstock:history:<minute>": keys.history(minute),
            "{penstock:usage}:written:<process>": usage,
        }[row]

    def complete(self) -> str:
        """Ask for a completion; return "ok" or the code of its error."""
        self.server.services.keyring._cached.clear()
        with self.http.stream("POST", "/v1/completions", json=ASK) as answer:
            return outcome(answer.status_code, list(answer.iter_lines()))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """Send another request: whatever comes of it, it comes soon and is no 500."""
        answer = self.http.request(method, path, json=body)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text


def outcome(status: int, lines: list[str]) -> str:
    if status != 200:
        code = json.loads("".join(lines))["error"]["code"]
        assert status == 503 or code == "model_not_found", lines  # for a moment after the repair
        return code
    frames = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return frames[-1]["error"]["code"] if "error" in frames[-1] else "ok"


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    own = RedisServer(tmp_path_factory.mktemp("store"))
    own.start()
    settings = Settings(
        redis_url=RedisDsn(own.url), files_dir=tmp_path_factory.mktemp("files"), lease_ms=1_000
    )
    with ExitStack() as stack:
        stack.callback(own.kill)
        client = stack.enter_context(connect(settings))
        card, secret = KeyDesk(client, 5.0).make(
            "ann", requests_per_min=10**6, tokens_per_min=10**9, tokens_per_day=10**9
        )
        fleet = Fleet(settings, stack)
        server = fleet.api(keepalive_s=0.2)
        clerk = Clerk(settings)
        stack.callback(clerk.stop)
        worker = fleet.worker(brief)
        subject = Subject(server, worker, client, (card.id, secret))
        stack.callback(subject.http.close)
        assert subject.complete() == "ok"
        yield subject


def test_each_row_of_the_table_is_here() -> None:
    rows = set(re.findall(r"^\| `([^`]+)`", keys.__doc__ or "", re.MULTILINE))
    assert rows == {*OF_ALL, *OF_THE_SUBJECT, *OF_ONE_JOB, *UNGUESSABLE}


@pytest.mark.parametrize("row", sorted({*OF_ALL, *OF_THE_SUBJECT}))
def test_a_key_of_another_type_is_503(
    subject: Subject, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, client = subject.key_of(row), subject.redis
    stored = client.dump(key)
    kind = client.type(key)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.delete(key)
        if kind == b"string" or row in {"penstock:store", "penstock:history:<minute>"}:
            pipeline.lpush(key, "x")
        else:
            pipeline.set(key, "x")
        pipeline.execute()
    try:
        began_s = time.monotonic()
        told = subject.complete()
        assert time.monotonic() - began_s < BOUND_S
        if row in REFUSED:
            assert told == "store_unavailable"
            assert key in caplog.text
        else:
            assert told in {"ok", "store_unavailable"}
            assert told == "ok" or key in caplog.text
        subject.ask("POST", "/tokenize", {"model": "tiny", "prompt": "Once"})
        subject.ask("POST", "/v1/responses", {"model": "tiny", "input": "x", "background": True})
        subject.ask("GET", "/v1/models")
        subject.ask("POST", "/list_models")
    finally:
        client.delete(key)
        if stored is not None and row == "penstock:keys":
            client.restore(key, 0, stored)
    establish(client)
    subject.worker.announce()  # at once, what it does each second
    subject.server.refresh()
    wait_until(lambda: recovers(subject), 30.0, poll_s=0.2)


def recovers(subject: Subject) -> bool:
    if subject.worker.broken is not None:
        raise subject.worker.broken
    if not subject.redis.llen(QUEUE):
        subject.redis.lpush(QUEUE, "a bell")
    return subject.complete() == "ok"


@pytest.mark.parametrize("what", ["job", "journal"])
def test_a_running_answers_key_of_another_type_ends_it_alone(
    subject: Subject, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker, client = subject.worker, subject.redis
    worker.script, worker.step_s = slow, 0.02
    try:
        heard: list[list[str]] = [[], []]

        def listen(place: int) -> None:
            with subject.http.stream("POST", "/v1/completions", json=ASK) as answer:
                heard[place].extend(answer.iter_lines())

        before = len(worker.jobs)
        threads = [threading.Thread(target=listen, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(worker.jobs) == before + 2 and all(map(len, heard)))
        broken = worker.jobs[-1].id
        key = (keys.job if what == "job" else keys.journal)(QUEUE, broken)
        client.delete(key)
        client.set(key, "x", ex=60)
        for thread in threads:
            thread.join(BOUND_S)
            assert not thread.is_alive()
        assert sorted(outcome(200, lines) for lines in heard) == ["ok", "store_unavailable"]
        client.delete(key)
    finally:
        worker.script, worker.step_s = brief, 0.002
    wait_until(lambda: recovers(subject), 30.0, poll_s=0.2)
    if what == "job":
        assert key in caplog.text
