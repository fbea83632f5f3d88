"""Redis fails at each call that a request makes, in each way that it can: never a 500."""

from __future__ import annotations

import base64
import itertools
import json
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from pydantic import RedisDsn
from redis.exceptions import NoPermissionError

from penstock.contract.events import Finished, FinishReason, Usage
from penstock.errors import StoreUnavailable
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.store.connection import connect
from tests.fixtures.api import ApiServer, Fleet
from tests.fixtures.clerk import Clerk
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import OWNED_BY_CELERY, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.contract.job import Job
    from tests.fixtures.api import Script

ERRORS = (
    redis.ConnectionError("Connection reset by peer"),
    redis.TimeoutError("Timeout reading from socket"),
    ConnectionResetError(104, "Connection reset by peer"),
    RuntimeError(
        "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
    ),
    redis.BusyLoadingError("Redis is loading the dataset in memory"),
    redis.ReadOnlyError("You can't write against a read only replica."),
    NoPermissionError("User default has no permissions to run this"),
    redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    redis.ResponseError("ERR something that nobody has heard of"),
    redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    redis.InvalidResponse("Protocol Error: b'?'"),
)
CALLS = (*range(12), 40)
"""How many calls succeed; no request makes as many as the last."""

ASK = {"model": "tiny", "prompt": "Once", "max_tokens": 4, "seed": 1}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Once"}], "max_tokens": 4}
PROMPT = {"model": "tiny", "prompt": "Once"}
TEXTS = {"model": "vectors", "input": ["Once", "upon"]}
RANK = {"model": "vectors", "query": "Once", "documents": ["a", "b"]}
JOB = "/v1/jobs/0123456789abcdef0123456789abcdef"
FILE = f"/v1/files/file-{'0' * 32}"
REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/completions", ASK),
    ("POST", "/v1/completions", {**ASK, "stream": True}),
    ("POST", "/v1/completions", {**ASK, "n": 2, "prompt": ["a", "b"]}),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions/render", CHAT),
    ("POST", "/v1/messages", CHAT),
    ("POST", "/v1/messages", {**CHAT, "stream": True}),
    ("POST", "/v1/messages/count_tokens", CHAT),
    ("POST", "/v1/responses", {"model": "tiny", "input": "Once", "max_output_tokens": 4}),
    ("POST", "/v1/responses", {"model": "tiny", "input": "Once", "stream": True}),
    ("POST", "/v1/responses", {"model": "tiny", "input": "Once", "background": True}),
    ("POST", "/v1/responses/input_tokens", {"model": "tiny", "input": "Once"}),
    ("GET", "/v1/responses/resp_0", None),
    ("GET", "/v1/responses/resp_0/input_items", None),
    ("POST", "/v1/responses/resp_0/cancel", None),
    ("DELETE", "/v1/responses/resp_0", None),
    ("POST", "/tokenize", PROMPT),
    ("POST", "/tokenize", {"model": "tiny", "messages": CHAT["messages"]}),
    ("POST", "/detokenize", {"model": "tiny", "tokens": [79, 110]}),
    ("POST", "/v1/embeddings", TEXTS),
    ("POST", "/v1/rerank", RANK),
    ("POST", "/v2/rerank", RANK),
    ("POST", "/v1/score", {"model": "vectors", "text_1": "Once", "text_2": ["a", "b"]}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/tiny", None),
    ("GET", JOB, None),
    ("GET", f"{JOB}/events", None),
    ("DELETE", JOB, None),
    ("GET", "/v1/requests/a-key", None),
    ("DELETE", "/v1/requests/a-key", None),
    ("GET", "/v1/batches", None),
    ("GET", "/v1/batches/batch_0", None),
    ("POST", "/v1/batches/batch_0/cancel", None),
    ("GET", "/v1/files", None),
    ("GET", FILE, None),
    ("GET", f"{FILE}/content", None),
    ("DELETE", FILE, None),
    ("GET", "/admin/fleet", None),
    ("GET", "/admin/fleet/history", None),
    ("POST", "/admin/workers/nobody/drain", None),
    ("POST", "/admin/workers/nobody/resume", None),
    ("POST", f"/admin/jobs/{JOB[-32:]}/cancel", None),
    ("GET", "/ready", None),
    ("GET", "/metrics", None),
    ("POST", "/worker_generate", {**PROMPT, "max_new_tokens": 4}),
    ("POST", "/worker_generate_stream", {**PROMPT, "max_new_tokens": 4}),
    ("POST", "/worker_get_embeddings", TEXTS),
    ("POST", "/count_token", PROMPT),
    ("POST", "/model_details", {"model": "tiny"}),
    ("POST", "/worker_get_conv_template", {"model": "tiny"}),
    ("POST", "/worker_get_status", {}),
    ("POST", "/get_worker_address", {"model": "tiny"}),
    ("POST", "/list_models", None),
    ("POST", "/refresh_all_workers", None),
]


class Faults:
    """Lets a client make so many calls to Redis; those after them fail, each in the next way."""

    def __init__(self, pool: Any) -> None:
        self.left: int | None = None
        self._errors = itertools.cycle(ERRORS)
        self._genuine = pool.get_connection
        is_async = "asyncio" in type(pool).__module__
        pool.get_connection = self._get_connection_async if is_async else self._get_connection

    def _get_connection(self, *args: Any, **kwargs: Any) -> Any:
        if self.left is not None:
            if self.left <= 0:
                raise next(self._errors)
            self.left -= 1
        return self._genuine(*args, **kwargs)

    async def _get_connection_async(self, *args: Any, **kwargs: Any) -> Any:
        return await self._get_connection(*args, **kwargs)


def as_vector(job: Job) -> Script:
    """Answer a job with a vector."""
    vector = base64.b64encode(struct.pack("<2f", 0.6, 0.8)).decode()
    yield Finished(job.id, 0, FinishReason.STOP, Usage(2, 0), embedding=vector)


class Subject:
    """An API with a key that has limits, workers for all requests here, and what Redis has not."""

    def __init__(self, server: ApiServer, secret: str, client: redis.Redis) -> None:
        self.server = server
        self.faults = Faults(server.services.redis.connection_pool)
        self.http = httpx.Client(
            base_url=server.url, timeout=20.0, headers={"authorization": f"Bearer {secret}"}
        )
        self.redis = client
        self.files: Path = server.settings.files_dir

    def ask(self, calls: int, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request of which so many calls to Redis succeed."""
        keyring = self.server.services.keyring
        keyring._cached.clear()  # else most requests would not have to ask for the key
        self.faults.left = calls
        try:
            return self.http.request(method, path, **more)
        finally:
            self.faults.left = None

    def objects(self, folder: str) -> list[str]:
        """Return the names of what lies in a folder of the files."""
        path = self.files / folder
        return [one.name for one in path.iterdir()] if path.is_dir() else []


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """An API and workers for all requests here, on a Redis of their own."""
    own = RedisServer(tmp_path_factory.mktemp("store"))
    own.start()
    settings = Settings(redis_url=RedisDsn(own.url), files_dir=tmp_path_factory.mktemp("files"))
    with ExitStack() as stack:
        stack.callback(own.kill)
        client = stack.enter_context(connect(settings))
        _, secret = KeyDesk(client, 5.0).make(
            "ann", admin=True, requests_per_min=10**6, tokens_per_min=10**9, tokens_per_day=10**9
        )
        server = Fleet(settings, stack).api(redis_patience_s=0.03, keepalive_s=0.2)
        clerk = Clerk(settings)
        stack.callback(clerk.stop)
        Fleet(settings, stack).worker()
        Fleet(settings, stack).worker(
            as_vector, name="vectors", queue="vectors-cpu", aliases=(),
            capabilities=("embed", "score"), kv_cache_tokens=0,
        )  # fmt: skip
        server.refresh()
        server.services.registry._view_life_s = 60.0  # else it would refuse all from the start
        subject = Subject(server, secret, client)
        stack.callback(subject.http.close)
        yield subject


@pytest.mark.parametrize(
    ("method", "path", "body"), REQUESTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_call_that_fails_is_a_500(
    subject: Subject, method: str, path: str, body: dict[str, Any] | None
) -> None:
    codes: list[int] = []
    for calls in CALLS:
        headers = {"idempotency-key": f"{path}-{calls}"} if calls % 2 else {}
        answer = subject.ask(calls, method, path, json=body, headers=headers)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        assert "internal error" not in answer.text.lower(), answer.text
        if answer.status_code == 503 and path != "/ready":
            check_shape(path, answer)
        codes.append(code_of(answer))
    if body:
        assert codes[-1] == 200, (codes, answer.text)
    if path not in {"/ready", "/metrics"}:  # all others ask for the key
        assert codes[0] in {503, 50005}
    check_nothing_is_left(subject)


def code_of(answer: httpx.Response) -> int:
    """Return the status, or what FastChat says in its place."""
    if answer.content.endswith(b"\0"):
        *_, last = filter(None, answer.content.split(b"\0"))
        return json.loads(last)["error_code"] or 200
    if answer.status_code == 200 and answer.content.startswith(b'{"text":'):
        return answer.json()["error_code"] or 200
    return answer.status_code


def check_shape(path: str, answer: httpx.Response) -> None:
    """Fail where a refusal is not in the words of the path's protocol."""
    content = answer.json()
    if path.startswith("/v1/messages"):
        assert content["type"] == "error"
        assert content["error"]["type"] == "overloaded_error"
        assert content["request_id"] == answer.headers["request-id"]
    else:
        assert content["error"]["code"] == "store_unavailable"
        assert content["error"]["type"] == "service_unavailable_error"
    assert int(answer.headers["retry-after"]) >= 1


def check_nothing_is_left(subject: Subject) -> None:
    """Fail where a job goes on that nobody waits for, or a key of Redis has no end."""
    queues = ("tiny-cpu", "vectors-cpu")
    for queue in queues:
        wait_until(lambda queue=queue: not subject.redis.zcard(keys.leases(queue)), 10.0)
    left = {key.decode() for key in subject.redis.scan_iter() if subject.redis.ttl(key) == -1}
    known = (*OWNED_BY_CELERY, keys.API_KEYS, *queues)
    assert not {key for key in left if not key.startswith(known)}


def test_an_upload_is_whole_or_not_there(subject: Subject) -> None:
    stored = 0
    for calls in CALLS:
        form = {"file": ("a.txt", b"hello")}
        answer = subject.ask(calls, "POST", "/v1/files", files=form, data={"purpose": "user_data"})
        assert answer.status_code in {200, 503}, answer.text
        stored += answer.status_code == 200
        assert len(subject.objects("objects")) == 2 * stored  # the bytes, and the card
    assert answer.status_code == 200


def test_a_batch_is_whole_or_not_there(subject: Subject) -> None:
    line = {"custom_id": "one", "method": "POST", "url": "/v1/completions", "body": ASK}
    file = subject.http.post(
        "/v1/files",
        files={"file": ("a.jsonl", json.dumps(line).encode())},
        data={"purpose": "batch"},
    ).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    made: list[str] = []
    for calls in CALLS:
        answer = subject.ask(calls, "POST", "/v1/batches", json=asked)
        assert answer.status_code in {200, 503}, answer.text
        if answer.status_code == 200:
            made.append(answer.json()["id"])
        assert sorted(subject.objects("batches")) == sorted([*made, "open"] if made else [])
    assert made
    for batch_id in made:
        wait_until(lambda batch_id=batch_id: batch_of(subject, batch_id)["status"] == "completed")
        assert batch_of(subject, batch_id)["request_counts"] == {
            "total": 1, "completed": 1, "failed": 0,
        }  # fmt: skip
    check_nothing_is_left(subject)


def batch_of(subject: Subject, batch_id: str) -> dict[str, Any]:
    return subject.http.get(f"/v1/batches/{batch_id}").json()


def test_a_batch_goes_on_beside_failing_calls(subject: Subject) -> None:
    lines = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/completions", "body": ASK}
        for n in range(20)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    form = {"file": ("a.jsonl", content)}
    file = subject.http.post("/v1/files", files=form, data={"purpose": "batch"}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch_id = subject.http.post("/v1/batches", json=asked).json()["id"]
    depths = itertools.cycle(CALLS)

    def has_ended() -> bool:
        subject.ask(next(depths), "GET", "/v1/models")
        return batch_of(subject, batch_id)["status"] == "completed"

    wait_until(has_ended, 60.0, poll_s=0.02)
    output = batch_of(subject, batch_id)["output_file_id"]
    rows = [*map(json.loads, subject.http.get(f"/v1/files/{output}/content").text.splitlines())]
    assert [row["custom_id"] for row in rows] == [line["custom_id"] for line in lines]
    assert {row["response"]["status_code"] for row in rows} == {200}
    check_nothing_is_left(subject)


def test_the_desk_of_keys_reports_that_redis_is_away(
    redis_settings: Settings, redis_client: redis.Redis
) -> None:
    with connect(redis_settings) as client:
        faults = Faults(client.connection_pool)
        desk = KeyDesk(client, 0.03)
        kept, _ = desk.make("kept")
        for calls in range(4):
            before = redis_client.hlen(keys.API_KEYS)
            faults.left = calls
            try:
                desk.make("made")
            except StoreUnavailable:
                assert calls < 2
                assert redis_client.hlen(keys.API_KEYS) == before
            else:
                assert redis_client.hlen(keys.API_KEYS) == before + 1
        for calls in range(3):
            faults.left = calls
            try:
                gone = desk.revoke("made")
            except StoreUnavailable:
                assert calls < 2
                assert redis_client.hlen(keys.API_KEYS) == 3
            else:
                assert {card.name for card in gone} == {"made"}
        faults.left = None
        assert desk.cards() == (kept,)
        redis_client.delete(keys.API_KEYS)
