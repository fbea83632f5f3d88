"""Redis fails at each call that a request makes, in each way that it can: never a 500."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from pydantic import RedisDsn

from penstock.settings import Settings
from tests.fixtures.api import ApiServer, Fleet
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = (
    redis.ConnectionError("Connection reset by peer"),
    redis.TimeoutError("Timeout reading from socket"),
    ConnectionResetError(104, "Connection reset by peer"),
    RuntimeError(
        "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
    ),
    redis.BusyLoadingError("Redis is loading the dataset in memory"),
)
CALLS = (*range(12), 40)
"""How many calls succeed; no request makes as many as the last."""

ASK = {"model": "tiny", "prompt": "Once", "max_tokens": 4, "seed": 1}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Once"}], "max_tokens": 4}
JOB = "/v1/jobs/0123456789abcdef0123456789abcdef"
REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/completions", ASK),
    ("POST", "/v1/completions", {**ASK, "stream": True}),
    ("POST", "/v1/completions", {**ASK, "n": 2, "prompt": ["a", "b"]}),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/messages", CHAT),
    ("POST", "/v1/messages", {**CHAT, "stream": True}),
    ("POST", "/v1/responses", {"model": "tiny", "input": "Once", "max_output_tokens": 4}),
    ("POST", "/v1/responses", {"model": "tiny", "input": "Once", "stream": True}),
    ("POST", "/v1/responses", {"model": "tiny", "input": "Once", "background": True}),
    ("GET", "/v1/responses/resp_0", None),
    ("DELETE", "/v1/responses/resp_0", None),
    ("GET", "/v1/models", None),
    ("GET", JOB, None),
    ("GET", f"{JOB}/events", None),
    ("DELETE", JOB, None),
    ("GET", "/v1/requests/a-key", None),
    ("DELETE", "/v1/requests/a-key", None),
    ("GET", "/v1/batches", None),
    ("GET", "/v1/batches/batch_0", None),
    ("GET", "/v1/files", None),
    ("GET", "/admin/fleet", None),
    ("GET", "/admin/fleet/history", None),
    ("POST", "/admin/workers/nobody/drain", None),
    ("POST", f"/admin/jobs/{JOB[-32:]}/cancel", None),
    ("GET", "/ready", None),
    ("GET", "/metrics", None),
    ("POST", "/worker_generate", {"model": "tiny", "prompt": "Once", "max_new_tokens": 4}),
    ("POST", "/worker_generate_stream", {"model": "tiny", "prompt": "Once", "max_new_tokens": 4}),
    ("POST", "/list_models", None),
]


class Faults:
    """Lets an API make so many calls to Redis; those after them fail, each in the next way."""

    def __init__(self, server: ApiServer) -> None:
        self.left: int | None = None
        pool = server.services.redis.connection_pool
        genuine, errors = pool.get_connection, itertools.cycle(ERRORS)

        async def get_connection(*args: Any, **kwargs: Any) -> Any:
            if self.left is not None:
                if self.left <= 0:
                    raise next(errors)
                self.left -= 1
            return await genuine(*args, **kwargs)

        pool.get_connection = get_connection


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API and a worker for all requests here, on a Redis of their own."""
    own = RedisServer(tmp_path_factory.mktemp("store"))
    own.start()
    settings = Settings(redis_url=RedisDsn(own.url))
    with ExitStack() as stack:
        stack.callback(own.kill)
        server = Fleet(settings, stack).api(redis_patience_s=0.03, keepalive_s=0.2)
        Fleet(settings, stack).worker()
        server.refresh()
        server.services.registry._view_life_s = 60.0  # else it would refuse all from the start
        yield server


@pytest.mark.parametrize(
    ("method", "path", "body"), REQUESTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_call_that_fails_is_a_500(
    api: ApiServer, method: str, path: str, body: dict[str, Any] | None
) -> None:
    faults = Faults(api)
    statuses: list[int] = []
    with httpx.Client(base_url=api.url, timeout=20.0) as client:
        for calls in CALLS:
            faults.left = calls
            try:
                key = {"idempotency-key": f"{path}-{calls}"} if calls % 2 else {}
                answer = client.request(method, path, json=body, headers=key)
            finally:
                faults.left = None
            statuses.append(answer.status_code)
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            assert "internal error" not in answer.text.lower(), answer.text
            if answer.status_code == 503 and path != "/ready":
                check_shape(path, answer)
    if path.startswith("/v1/completions"):
        assert statuses[0] == 503
        assert statuses[-1] == 200, (statuses, answer.text)


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
