"""Each protocol has its own shape of an error, whatever has gone wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.fastchat.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.api import ApiServer, Fleet

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
PLAIN = {"model": "tiny", "prompt": "hello"}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", PLAIN),
    ("/v1/embeddings", {"model": "tiny", "input": "hello"}),
    ("/v1/rerank", {"model": "tiny", "query": "hello", "documents": ["a"]}),
    ("/tokenize", PLAIN),
    ("/v1/messages", CHAT),
    ("/v1/messages/count_tokens", CHAT),
    ("/worker_generate", PLAIN),
    ("/worker_generate_stream", PLAIN),
    ("/worker_get_embeddings", {"model": "tiny", "input": ["hello"]}),
    ("/count_token", PLAIN),
    ("/get_worker_address", {"model": "tiny"}),
]


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    server = fleet.api(max_body_bytes=10_000)
    fleet.worker(capabilities=("generate", "embed", "score"))
    return server


@pytest.fixture
def http(server: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20.0) as client:
        yield client


def check(path: str, answer: httpx.Response, *, status: int, kind: str, code: ErrorCode) -> None:
    """Fail where an error is not what its path's protocol makes of it.

    `kind` is Anthropic's type, `code` FastChat's; FastChat's status says nothing but of the router.
    """
    if path.startswith("/v1/messages"):
        content = answer.json()
        assert answer.status_code == status
        assert (content["type"], content["error"]["type"]) == ("error", kind)
        assert content["request_id"] == answer.headers["request-id"]
    elif path.startswith(("/v1/", "/tokenize")):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert answer.status_code == (status if status in {403, 404, 405} else 200)
        content = httpx.Response(200, content=answer.content.removesuffix(b"\0")).json()
        assert set(content) == {"text", "error_code"}
        assert content["error_code"] == code
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_an_unexpected_error(
    server: ApiServer, http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a secret")

    registry = server.services.registry
    registry.pick = registry.models = registry.resolve = broken
    answer = http.post(path, json=body)
    assert "secret" not in answer.text
    check(path, answer, status=500, kind="api_error", code=ErrorCode.INTERNAL_ERROR)


@pytest.mark.parametrize(("path", "_body"), ASKED)
def test_another_method(http: httpx.Client, path: str, _body: Any) -> None:
    answer = http.put(path)
    assert answer.headers["allow"] == "POST"
    check(
        path,
        answer,
        status=405,
        kind="invalid_request_error",
        code=ErrorCode.VALIDATION_TYPE_ERROR,
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/nothing", 404),
        ("/v1/messages/batches", 404),
        ("/r/token/nothing", 404),
        ("/r/token/register_worker", 403),
    ],
)
def test_another_path(http: httpx.Client, path: str, status: int) -> None:
    answer = http.post(path, json={})
    code = ErrorCode.VALIDATION_TYPE_ERROR
    check(path, answer, status=status, kind="not_found_error", code=code)


@pytest.mark.parametrize(("path", "_body"), ASKED)
def test_too_large_a_body(http: httpx.Client, path: str, _body: Any) -> None:
    answer = http.post(path, content=b" " * 20_000)
    code = ErrorCode.VALIDATION_TYPE_ERROR
    check(path, answer, status=413, kind="request_too_large", code=code)


@pytest.mark.parametrize(("path", "_body"), ASKED)
def test_a_body_that_is_none(http: httpx.Client, path: str, _body: Any) -> None:
    answer = http.post(path, content=b'{"model": ')
    code = ErrorCode.VALIDATION_TYPE_ERROR
    check(path, answer, status=400, kind="invalid_request_error", code=code)


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_redis_is_away(fleet: Fleet, path: str, body: dict[str, Any]) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError(104, "Connection reset by peer")

    server = fleet.api(redis_patience_s=0.05)
    fleet.worker(capabilities=("generate", "embed", "score"))
    server.services.registry._view_life_s = 60.0  # else it would refuse all from the start
    server.services.redis.connection_pool.get_connection = away
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=20.0)
    code = ErrorCode.CONTROLLER_NO_WORKER
    check(path, answer, status=503, kind="overloaded_error", code=code)


@pytest.mark.parametrize(
    "path", ["/v1/files?limit=many", "/v1/batches?limit=1.5", "/v1/responses/r/input_items?limit=x"]
)
def test_a_query_that_cannot_be_read(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", "limit")
