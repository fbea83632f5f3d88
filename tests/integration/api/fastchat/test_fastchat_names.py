"""The names that FastChat's side serves: those of /v1/models, the aliases file's among them."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.contract.worker import EmbeddingCard
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.fleet.fastchat_workers import PeerCard, key_of
from tests.fixtures.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.fixtures.api import ApiServer, Fleet

ALIASES = """
[aliases.assistant]
models = { tiny = 1, newer = 3 }
[aliases.spare]
models = "nowhere"
fallback = ["tiny-cpu"]
[aliases.gone]
models = "nowhere"
[aliases.remote]
models = "theirs"
[aliases.vectors]
models = "encoder"
"""
NEWER: Any = {"name": "newer", "queue": "newer-cpu", "aliases": ()}
ENCODER: Any = {
    "name": "encoder",
    "queue": "encoder-cpu",
    "aliases": (),
    "capabilities": ("embed",),
    "embedding": EmbeddingCard(3),
}


@pytest.fixture
def alias_file(tmp_path: Path) -> Path:
    file = tmp_path / "aliases.toml"
    file.write_text(ALIASES)
    return file


def post(server: ApiServer, path: str, body: Any = None, **more: Any) -> Any:
    return httpx.post(f"{server.url}{path}", json=body, timeout=20.0, **more).json()


def listed(server: ApiServer, path: str = "/list_models", **more: Any) -> list[str]:
    return post(server, path, **more)["models"]


def openais(server: ApiServer) -> list[str]:
    return [one["id"] for one in httpx.get(f"{server.url}/v1/models").json()["data"]]


def address(server: ApiServer, name: str) -> str:
    return post(server, "/get_worker_address", {"model": name})["address"]


def test_aliases_are_served_on_both_sides(fleet: Fleet, alias_file: Path) -> None:
    server = fleet.api(aliases_file=alias_file)
    tiny = fleet.worker()
    assert listed(server) == openais(server) == ["assistant", "org/tiny", "spare", "tiny"]
    for name in listed(server):
        assert address(server, name) == server.url
    assert [address(server, name) for name in ("gone", "remote", "vectors", "newer")] == [""] * 4
    newer = fleet.worker(**NEWER)
    ask: Any = {"prompt": "hello", "echo": False}
    for _ in range(40):
        assert post(server, "/worker_generate", {**ask, "model": "assistant"})["error_code"] == 0
    assert tiny.jobs
    assert newer.jobs  # by their weights
    before = len(tiny.jobs)
    assert post(server, "/worker_generate", {**ask, "model": "spare"})["error_code"] == 0
    assert len(tiny.jobs) == before + 1
    status = post(server, "/worker_get_status")
    assert status["model_names"] == listed(server)


def test_an_alias_goes_with_its_models(fleet: Fleet, alias_file: Path) -> None:
    server = fleet.api(aliases_file=alias_file)
    worker = fleet.worker()
    assert "assistant" in listed(server)
    worker.stop()
    wait_until(lambda: listed(server) == openais(server) == [], 10.0)


def test_an_alias_of_a_fastchat_workers_model(
    fleet: Fleet, alias_file: Path, redis_client: redis.Redis
) -> None:
    server = fleet.api(aliases_file=alias_file, fastchat_worker_hosts=("127.0.0.1",))
    with silent_worker(redis_client, models=("theirs",)):
        wait_until(lambda: listed(server) == openais(server) == ["remote", "theirs"])
        assert listed(server, "/list_language_models") == ["remote", "theirs"]
        assert listed(server, "/list_multimodal_models") == []
        assert address(server, "remote") == server.url
        shown = httpx.get(f"{server.url}/v1/models/remote").json()
        assert (shown["id"], shown["root"]) == ("remote", "theirs")
        assert post(server, "/worker_get_status")["model_names"] == []  # none of ours


def test_models_that_see(fleet: Fleet, alias_file: Path, redis_client: redis.Redis) -> None:
    server = fleet.api(aliases_file=alias_file, fastchat_worker_hosts=("127.0.0.1",))
    fleet.worker()
    with silent_worker(redis_client, models=("theirs",), multimodal=True):
        wait_until(lambda: "theirs" in listed(server))
        assert listed(server, "/list_multimodal_models") == ["remote", "theirs"]
        assert "theirs" not in listed(server, "/list_language_models")


def test_an_embedding_model_is_not_offered_for_chats(fleet: Fleet, alias_file: Path) -> None:
    server = fleet.api(aliases_file=alias_file)
    fleet.worker(**ENCODER)
    assert listed(server) == openais(server) == ["encoder", "vectors"]
    assert listed(server, "/list_language_models") == []


def test_a_key_sees_its_own_names(
    fleet: Fleet, alias_file: Path, redis_client: redis.Redis
) -> None:
    _, secret = KeyDesk(redis_client, 5.0).make("ann", models=("assistant",))
    try:
        server = fleet.api(aliases_file=alias_file)
        fleet.worker()
        mine = {"authorization": f"Bearer {secret}"}
        assert listed(server, headers=mine) == ["assistant"]
        assert post(server, "/worker_get_status", headers=mine)["model_names"] == ["assistant"]
    finally:
        redis_client.delete(keys.API_KEYS)


def test_what_a_key_may_not(fleet: Fleet, redis_client: redis.Redis) -> None:
    desk = KeyDesk(redis_client, 5.0)
    limited = {
        40103: desk.make("other", models=("other",)),
        42901: desk.make("hasty", requests_per_min=1),
        42902: desk.make("poor", tokens_per_day=1),
    }
    server = fleet.api()
    fleet.worker()
    try:
        for code, (_, secret) in limited.items():
            key = {"authorization": f"Bearer {secret}"}
            asked = {"model": "tiny", "prompt": "hello", "max_new_tokens": 4}
            told = [
                post(server, "/worker_generate", asked, headers=key)["error_code"] for _ in range(2)
            ]
            assert told[-1] == code
            stream = httpx.post(f"{server.url}/worker_generate_stream", json=asked, headers=key)
            assert json.loads(stream.content.removesuffix(b"\0"))["error_code"] == code
    finally:
        for card, _ in limited.values():
            redis_client.delete(keys.limit(card.id), *redis_client.keys(f"*{card.id}*"))
        redis_client.delete(keys.API_KEYS)


class silent_worker:  # noqa: N801  used as a context
    """A FastChat worker that takes connections and never answers, as the list has it."""

    def __init__(self, redis_client: redis.Redis, **card: Any) -> None:
        self._redis = redis_client
        self._card = card

    def __enter__(self) -> None:
        import msgspec

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        card = PeerCard(self.url, **self._card)
        self._redis.set(key_of(self.url), msgspec.json.encode(card), ex=60)
        self._redis.sadd(keys.PEERS, self.url)

    def __exit__(self, *_: object) -> None:
        self._redis.delete(key_of(self.url), keys.PEERS)
        self._socket.close()


def test_refreshing_never_waits(fleet: Fleet, redis_client: redis.Redis) -> None:
    """FastChat's controller asks every worker for 5 s each, and answers nobody meanwhile."""
    server = fleet.api(fastchat_worker_hosts=("127.0.0.1",))
    with silent_worker(redis_client, models=("theirs",)):
        wait_until(lambda: listed(server) == ["theirs"])
        with httpx.Client(base_url=server.url) as client:
            started = time.monotonic()
            for _ in range(20):
                assert client.post("/refresh_all_workers").json() is None
            assert time.monotonic() - started < 2.0
        assert listed(server) == ["theirs"]
