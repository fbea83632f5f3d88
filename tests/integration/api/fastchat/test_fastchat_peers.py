"""FastChat workers that join our fleet: who may, what they serve, how they leave."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from api.fastchat import peer_http, peers
from api.fastchat.registration import checked_url
from penstock.errors import NotPermitted
from penstock.transport import keys
from penstock.transport.store.connection import connect
from tests.fixtures.processes import wait_until
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import redis
    from starlette.requests import Request

    from tests.fixtures.api import ApiServer, Fleet

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

HERE = ("127.0.0.1",)
PIXEL = bytes.fromhex("474946383961010001008000000000000000002c00000000010001000002024401003b")
"""A GIF of one pixel."""
ASK: Any = {"model": "theirs", "prompt": "hello", "echo": False}


class TheirWorker:
    """A program that speaks as FastChat's worker does, and notes what it is asked."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status: dict[str, Any] = {"model_names": ["theirs"], "speed": 1, "queue_length": 0}
        self.pause_s = 0.0
        self.words: tuple[str, ...] = ("one ", "two ", "three")
        self.broken = ""
        self.left = threading.Event()
        paths = (
            "worker_generate", "worker_get_embeddings", "count_token", "worker_get_conv_template",
            "model_details", "worker_get_status",
        )  # fmt: skip
        routes = [Route(f"/{path}", self.answer, methods=["POST"]) for path in paths]
        routes.append(Route("/worker_generate_stream", self.stream, methods=["POST"]))
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(Starlette(routes=routes), log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        wait_until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10.0)
        self._socket.close()

    def said(self, count: int, *, ended: bool = False) -> dict[str, Any]:
        usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
        reason = "stop" if ended else None
        text = "".join(self.words[:count])
        return {"text": text, "error_code": 0, "usage": usage, "finish_reason": reason}

    async def answer(self, request: Request) -> JSONResponse:
        body = await request.body()
        self.asked.append((request.url.path, json.loads(body) if body else {}))
        conv = {
            "name": "x", "system_template": "{system_message}", "system_message": "S",
            "roles": ["U", "A"], "messages": [], "offset": 0, "sep_style": 2, "sep": " ",
            "sep2": "</s>", "stop_str": "</s>", "stop_token_ids": None,
        }  # fmt: skip
        answers = {
            "/worker_get_status": self.status,
            "/model_details": {"context_length": 777},
            "/count_token": {"count": 5, "error_code": 0},
            "/worker_get_embeddings": {"embedding": [[0.5]], "token_num": 1},
            "/worker_get_conv_template": {"conv": conv},
            "/worker_generate": self.said(3, ended=True),
        }
        return JSONResponse(answers[request.url.path])

    async def stream(self, request: Request) -> StreamingResponse:
        self.asked.append((request.url.path, await request.json()))
        return StreamingResponse(self._frames())

    async def _frames(self) -> AsyncIterator[bytes]:
        import asyncio

        try:
            for count in range(1, len(self.words) + 1):
                yield json.dumps(self.said(count)).encode() + b"\0"
                await asyncio.sleep(self.pause_s)
                if self.broken:
                    yield self.broken.encode() + b"\0"
                    return
            yield json.dumps(self.said(len(self.words), ended=True)).encode() + b"\0"
        finally:
            self.left.set()


@pytest.fixture
def theirs() -> Iterator[Callable[[], TheirWorker]]:
    started: list[TheirWorker] = []

    def start() -> TheirWorker:
        started.append(TheirWorker())
        return started[-1]

    yield start
    for one in started:
        one.stop()


def post(server: ApiServer, path: str, body: Any = None) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=20.0)


def join(server: ApiServer, worker: TheirWorker, **more: Any) -> Any:
    body = {"worker_name": worker.url, "check_heart_beat": True, "worker_status": None, **more}
    return post(server, "/register_worker", body).json()


def models(server: ApiServer) -> list[str]:
    return post(server, "/list_models").json()["models"]


def objects(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(part) for part in body.split(b"\0") if part]


# -- who may


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("http://127.0.0.1:21002", ("127.0.0.1",)),
        ("http://127.0.0.1:21002/", ("127.0.0.1:21002",)),
        ("http://10.1.2.3:21002", ("10.0.0.0/8",)),
        ("http://10.1.2.3:21002", ("10.0.0.0/8:21002",)),
        ("http://[::1]:21002", ("::1/128",)),
        ("https://a.gpu.example", ("*.gpu.example:443",)),
        ("http://LocalHost:1", ("localhost",)),
    ],
)
def test_who_may_register(name: str, allowed: tuple[str, ...]) -> None:
    assert checked_url(name, allowed).split("://")[1].rsplit(":", 1)[1].isdigit()


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("http://127.0.0.1:21002", ()),
        ("http://127.0.0.2:21002", ("127.0.0.1",)),
        ("http://127.0.0.1:6379", ("127.0.0.1:21002",)),
        ("http://localhost:21002", ("127.0.0.0/8",)),
        ("http://11.1.2.3:21002", ("10.0.0.0/8",)),
        ("http://gpu.example.evil.test:1", ("*.gpu.example",)),
        ("http://127.0.0.1:1@evil.test:1", ("127.0.0.1",)),
        ("http://evil.test#127.0.0.1", ("127.0.0.1",)),
        ("http://127.0.0.1:21002/admin", ("127.0.0.1",)),
        ("http://127.0.0.1:21002?x=", ("127.0.0.1",)),
        ("http://user@127.0.0.1:21002", ("127.0.0.1",)),
        ("file:///etc/passwd", ("*",)),
        ("gopher://127.0.0.1:1", ("127.0.0.1",)),
        ("http://127.0.0.1:port", ("127.0.0.1",)),
        ("http://0x7f000001:1", ("127.0.0.1",)),
        ("", ("*",)),
    ],
)
def test_who_may_not_register(name: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(NotPermitted):
        checked_url(name, allowed)


def test_a_host_that_may_not_register_is_not_called(
    fleet: Fleet, theirs: Callable[[], TheirWorker]
) -> None:
    worker = theirs()
    for hosts in ((), ("127.0.0.2",), ("127.0.0.1:1",)):
        server = fleet.api(fastchat_worker_hosts=hosts)
        assert join(server, worker)["error_code"] == 40103
    assert worker.asked == []


def test_the_token_lets_a_worker_in_from_anywhere(
    fleet: Fleet, theirs: Callable[[], TheirWorker], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "penstock")
    server = fleet.api(fastchat_worker_token="s3cret", api_keys=("mine",))
    worker = theirs()
    body = {"worker_name": worker.url, "check_heart_beat": True, "worker_status": None}
    beat = {"worker_name": worker.url, "queue_length": 0}
    for path in ("/r/guess/register_worker", "/r/s3cre/register_worker", "/r/s3cret/list_models"):
        assert post(server, path, body).status_code in {403, 404}
    assert post(server, "/register_worker", body).json()["error_code"] == 40101
    assert worker.asked == []
    assert post(server, "/r/s3cret/register_worker", body).json() is None
    assert post(server, "/r/s3cret/receive_heart_beat", beat).json() == {"exist": True}
    mine = {"authorization": "Bearer mine"}
    assert httpx.post(f"{server.url}/list_models", headers=mine).json() == {"models": ["theirs"]}
    assert "s3cret" not in caplog.text
    # An API process that does not know the token does not call the worker.
    other = fleet.api(fastchat_worker_hosts=("127.0.0.2",))
    assert models(other) == []


def test_a_token_that_is_not_set_opens_nothing(
    fleet: Fleet, theirs: Callable[[], TheirWorker]
) -> None:
    server, worker = fleet.api(), theirs()
    body = {"worker_name": worker.url, "check_heart_beat": True, "worker_status": None}
    for path in ("/r//register_worker", "/r/%20/register_worker", "/r/None/register_worker"):
        assert post(server, path, body).status_code in {403, 404}
    assert worker.asked == []


# -- what they serve


def test_a_fastchat_worker_beside_ours(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)
    other = fleet.api(fastchat_worker_hosts=HERE)
    fleet.worker()
    worker = theirs()
    assert join(server, worker) is None
    assert models(server) == ["org/tiny", "theirs", "tiny"]
    wait_until(lambda: "theirs" in models(other))
    assert post(server, "/get_worker_address", {"model": "theirs"}).json() == {
        "address": server.url
    }
    assert post(server, "/worker_get_status").json()["model_names"] == ["org/tiny", "tiny"]

    seen = post(server, "/worker_generate_stream", {**ASK, "stop": "###", "of_theirs": 1})
    assert [one["text"] for one in objects(seen.content)] == [
        "one ", "one two ", "one two three", "one two three",
    ]  # fmt: skip
    path, body = worker.asked[-1]
    assert path == "/worker_generate_stream"
    assert body == {**ASK, "stop": ["###"], "of_theirs": 1}
    for path, expected in (
        ("/worker_generate", worker.said(3, ended=True)),
        ("/count_token", {"count": 5, "error_code": 0}),
        ("/model_details", {"context_length": 777}),
    ):
        assert post(other, path, ASK).json() == expected
    asked = {"model": "theirs", "input": ["a"]}
    assert post(server, "/worker_get_embeddings", asked).json()["embedding"] == [[0.5]]
    conv = post(server, "/worker_get_conv_template", {"model": "theirs"}).json()["conv"]
    assert conv["stop_str"] == "</s>"


def test_openais_routes_reach_it(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)
    worker = theirs()
    join(server, worker)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["theirs"]
        assert client.models.retrieve("theirs").to_dict()["max_model_len"] == 777
        answer = client.completions.create(model="theirs", prompt="hello", max_tokens=9, stop=["x"])
        assert answer.choices[0].text == "one two three"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
        body = worker.asked[-1][1]
        assert (body["prompt"], body["max_new_tokens"], body["stop"]) == ("hello", 9, ["x"])
        chunks = client.completions.create(model="theirs", prompt="hello", stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == "one two three"
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="theirs", prompt=[1, 2])
        worker.broken = '{"text": "it broke", "error_code": 50002}'
        with pytest.raises(openai.InternalServerError, match="it broke"):
            client.completions.create(model="theirs", prompt="hello")


def test_an_unexpected_error_ends_a_relayed_stream(
    fleet: Fleet, theirs: Callable[[], TheirWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, worker = fleet.api(fastchat_worker_hosts=HERE), theirs()
    worker.pause_s = 0.05
    join(server, worker)
    split = peer_http.split

    async def broken(*args: Any, **bounds: Any) -> AsyncIterator[bytes]:
        async for one in split(*args, **bounds):
            yield one
            raise ZeroDivisionError("a secret")

    monkeypatch.setattr(peer_http, "split", broken)
    content = post(server, "/worker_generate_stream", ASK).content
    first, last = objects(content)
    assert first["text"] == "one "
    assert last["error_code"] == 50001
    assert b"secret" not in content


def test_a_chat_needs_fastchats_library(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    pytest.importorskip("fastchat.conversation", reason="the extra `fastchat` is not installed")
    server = fleet.api(fastchat_worker_hosts=HERE)
    worker = theirs()
    join(server, worker)
    chat = {"model": "theirs", "messages": [{"role": "user", "content": "hi"}]}
    answer = post(server, "/v1/chat/completions", chat).json()
    assert answer["choices"][0]["message"]["content"] == "one two three"
    body = worker.asked[-1][1]
    assert (body["prompt"], body["stop"]) == ("S U: hi A:", ["</s>"])


def test_a_chat_with_an_image(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    pytest.importorskip("fastchat.conversation", reason="the extra `fastchat` is not installed")
    pytest.importorskip("PIL", reason="Pillow is not installed")
    server = fleet.api(fastchat_worker_hosts=HERE)
    worker = theirs()
    join(server, worker)
    picture = base64.b64encode(PIXEL).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{picture}"}}
    content = [image, {"type": "text", "text": "what?"}]
    chat = {"model": "theirs", "messages": [{"role": "user", "content": content}]}
    refused = post(server, "/v1/chat/completions", chat)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_feature")
    join(server, worker, multimodal=True)
    assert post(server, "/list_multimodal_models").json() == {"models": ["theirs"]}
    answer = post(server, "/v1/chat/completions", chat).json()
    assert answer["choices"][0]["message"]["content"] == "one two three"
    body = worker.asked[-1][1]
    assert (body["prompt"], body["images"]) == ("S U: $$<image>$$what? A:", [picture])


def test_the_shortest_queue_goes_first(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)
    busy, idle = theirs(), theirs()
    for worker, waiting in ((busy, 100), (idle, 0)):
        worker.status["queue_length"] = waiting
        assert join(server, worker, worker_status=worker.status) is None
    for _ in range(4):
        post(server, "/worker_generate", ASK)
    counts = [sum(path == "/worker_generate" for path, _ in one.asked) for one in (busy, idle)]
    assert counts == [0, 4]


# -- how they leave


def test_a_dead_one_leaves_and_another_answers(
    fleet: Fleet, theirs: Callable[[], TheirWorker]
) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)
    first, second = theirs(), theirs()
    second.status["queue_length"] = 50
    for worker in (first, second):
        join(server, worker)
    first.stop()
    assert post(server, "/worker_generate", ASK).json()["text"] == "one two three"
    second.stop()
    assert post(server, "/worker_generate", ASK).json()["error_code"] == 50005
    wait_until(lambda: models(server) == [])  # the list may be a second old
    shown = post(server, "/worker_generate_stream", ASK).content
    assert [one["error_code"] for one in objects(shown)] == [40301]
    beat = {"worker_name": first.url, "queue_length": 0}
    assert post(server, "/receive_heart_beat", beat).json() == {"exist": False}


@pytest.mark.parametrize("path", ["/worker_generate", "/worker_generate_stream"])
def test_one_that_joins_before_it_listens_is_waited_for(
    fleet: Fleet, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastChat's workers do so."""
    server = fleet.api(fastchat_worker_hosts=HERE)
    port = find_free_port()
    body = {"worker_name": f"http://127.0.0.1:{port}", "check_heart_beat": True}
    status = {"model_names": ["theirs"], "speed": 1, "queue_length": 0}
    assert post(server, "/register_worker", {**body, "worker_status": status}).json() is None
    late: list[TheirWorker] = []
    listens = threading.Timer(0.5, lambda: late.append(TheirWorker(port)))
    listens.start()
    assert objects(post(server, path, ASK).content)[-1]["text"] == "one two three"
    listens.join()
    late[0].stop()
    monkeypatch.setattr(peers, "BEGINNING_S", 0.3)
    assert objects(post(server, path, ASK).content)[-1]["error_code"] == 50005
    wait_until(lambda: models(server) == [])  # the list may be a second old


def test_an_idle_one_leaves_too(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)
    worker = theirs()
    join(server, worker)
    worker.stop()
    wait_until(lambda: models(server) == [], 15.0)


def test_heartbeats_renew(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE, fastchat_worker_life_s=30.0)
    worker = theirs()
    join(server, worker)
    with connect(fleet.settings) as client:
        (key,) = client.keys(f"{keys.PREFIX}:fastchat:worker:*")
        client.pexpire(key, 5000)
        beat = {"worker_name": worker.url, "queue_length": 7}
        assert post(server, "/receive_heart_beat", beat).json() == {"exist": True}
        assert client.pttl(key) > 20_000


def test_one_that_breaks_off(fleet: Fleet, theirs: Callable[[], TheirWorker]) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE, fastchat_worker_timeout_s=0.3, keepalive_s=0.05)
    worker = theirs()
    join(server, worker)
    worker.pause_s = 2.0
    seen = post(server, "/worker_generate_stream", ASK).content
    assert b"\0\0" in seen  # keep-alives meanwhile
    first, last = objects(seen)
    assert (first["text"], last["error_code"]) == ("one ", 50006)


def test_a_client_that_leaves_is_not_answered_on(
    fleet: Fleet, theirs: Callable[[], TheirWorker]
) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)
    worker = theirs()
    worker.words, worker.pause_s = ("word ",) * 10_000, 0.01
    join(server, worker)
    with httpx.stream("POST", f"{server.url}/worker_generate_stream", json=ASK) as answer:
        next(answer.iter_bytes())
    assert worker.left.wait(10.0)


# -- our fleet as a worker of theirs


def test_our_fleet_registers_with_a_controller(fleet: Fleet) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    forget = threading.Event()

    async def note(request: Request) -> JSONResponse:
        calls.append((request.url.path, await request.json()))
        return JSONResponse(
            None if request.url.path == "/register_worker" else {"exist": not forget.is_set()}
        )

    routes = [
        Route(f"/{path}", note, methods=["POST"])
        for path in ("register_worker", "receive_heart_beat")
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        controller = f"http://127.0.0.1:{listening.getsockname()[1]}"
        fleet.worker()
        fleet.api(
            fastchat_controller=controller,
            public_url="http://us.example:1/",
            fastchat_heartbeat_s=0.2,
        )
        wait_until(lambda: len(calls) >= 3)
        path, first = calls[0]
        assert path == "/register_worker"
        assert first["worker_name"] == "http://us.example:1"
        assert first["worker_status"]["model_names"] == ["org/tiny", "tiny"]
        beat = {"worker_name": "http://us.example:1", "queue_length": 0}
        assert calls[1] == ("/receive_heart_beat", beat)
        forget.set()
        wait_until(lambda: [path for path, _ in calls].count("/register_worker") >= 2)
        forget.clear()
        fleet.worker(name="second", queue="second-cpu", aliases=())
        wait_until(lambda: "second" in str(calls[-3:]) or time.sleep(0.05), 15.0)
    finally:
        server.should_exit = True
        thread.join(10.0)
        listening.close()


def test_a_worker_that_redis_has_forgotten_is_never_unknown(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    """Not even until its next heartbeat, 45 s later; one that has died meanwhile is dropped."""
    servers = [fleet.api(fastchat_worker_hosts=HERE) for _ in range(2)]
    theirs = TheirWorker()
    try:
        join(servers[0], theirs)
        wait_until(lambda: models(servers[1]) == ["theirs"])
        redis_client.flushall()

        def is_back() -> bool:
            assert [models(one) for one in servers] == [["theirs"]] * 2
            return bool(redis_client.exists(keys.PEERS))

        wait_until(is_back, 10.0)
    finally:
        theirs.stop()
    redis_client.flushall()
    wait_until(lambda: [models(one) for one in servers] == [[]] * 2, 20.0)
