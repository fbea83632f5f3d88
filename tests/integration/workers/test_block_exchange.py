"""Hosts that serve each other blocks, over real HTTP and Redis, whatever the other host does."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.clock import clock
from penstock.contract.worker import ExchangeCard, WorkerCard
from penstock.engine.reuse.block_files import BlockFiles, folder_id
from penstock.engine.reuse.digests import extend_digests
from penstock.engine.reuse.kv_store import KVStore
from penstock.errors import BadSettings, StartupError
from penstock.transport import keys
from penstock.transport.fleet.announcer import Announcer
from tests.fixtures.api import model_card
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import find_free_port
from tests.unit.engine.test_stored_blocks import (
    ANSWER,
    BLOCK,
    IDENTITY,
    PROMPT,
    STATES,
    Worker,
    running,
)
from tests.unit.workers.fakes import make_served
from workers.serving import startup
from workers.serving.block_exchange import fetching, hosts, server
from workers.serving.block_exchange.exchange import BlockExchange
from workers.serving.block_exchange.wire import MOST_NAMES, Token, path_of
from workers.serving.identity import card_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from penstock.settings import Settings

QUEUE = "tiny-cpu"
SECRET = "a token of an exchange"
LOCALHOST = "127.0.0.1"
BLOCKS = 25


class Site:
    """Two hosts: one has computed a prompt, the other serves it next."""

    def __init__(self, folder: Path, client: redis.Redis, settings: Settings) -> None:
        self.folder = folder
        self.client = client
        self.announcer = Announcer(client, settings)
        self._open = ExitStack()
        self.here = self.exchange("here", SECRET)

    def exchange(self, name: str, secret: str) -> BlockExchange:
        exchange = BlockExchange(self.folder / name, secret, self.client, host=LOCALHOST, port=0)
        self._open.callback(exchange.close)
        return exchange

    def fill(self, name: str, states: int = 0) -> None:
        with running(self.folder / name, states=states) as worker:
            assert worker.ask("first") == (ANSWER, 0)

    def announce(self, card: ExchangeCard, name: str = "there", queue: str = QUEUE) -> None:
        self.announcer.announce(
            WorkerCard(name, name, 1, "1", 0, 0, (model_card(queue=queue),), exchange=card)
        )

    def serve(self, name: str = "there", secret: str = SECRET) -> BlockExchange:
        """Serve the blocks of a host, and announce it."""
        exchange = self.exchange(name, secret)
        exchange.start()
        self.announce(exchange.card, name)
        return exchange

    @contextmanager
    def worker(self, most_bytes: int = BLOCK, states: int = 0) -> Iterator[Worker]:
        """Run a worker here that asks other hosts."""
        worker = Worker(BlockFiles(self.folder / "here", IDENTITY, 2**20), states=states)
        worker.store.ask(self.here.remote(QUEUE, IDENTITY, most_bytes))
        worker.engine.start()
        try:
            yield worker
        finally:
            worker.engine.stop()

    def close(self) -> None:
        self._open.close()
        self.announcer.withdraw("there", [QUEUE])
        self.announcer.withdraw("another", [QUEUE])


@pytest.fixture
def site(tmp_path: Path, redis_client: redis.Redis, redis_settings: Settings) -> Iterator[Site]:
    with closing(Site(tmp_path, redis_client, redis_settings)) as site:
        yield site


@pytest.fixture
def digests() -> list[bytes]:
    names: list[bytes] = []
    extend_digests(names, PROMPT, BLOCK)
    return names


def test_another_hosts_blocks_are_loaded_and_kept_here(site: Site) -> None:
    site.fill("there")
    site.serve()
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 100)
        assert worker.computed < 25
        load = worker.engine.load()
        assert load.store
        assert load.store.loaded_tokens_total == load.store.remote_tokens_total == 100
        assert load.store.remote_bytes_total == 100
        assert load.store.read_bytes_total == load.store.remote_errors_total == 0
        wait_until(lambda: worker.store.counts.written_blocks >= BLOCKS)
    with running(site.folder / "here") as worker:  # alone
        assert worker.ask("again") == (ANSWER, 100)


def test_states_come_with_their_blocks(site: Site) -> None:
    site.fill("there", states=STATES)
    site.serve()
    with site.worker(most_bytes=len(PROMPT), states=STATES) as worker:
        assert worker.ask("again") == (ANSWER, 100)
        assert worker.computed < 25
        assert worker.store.counts.remote_blocks == BLOCKS + 1


def test_what_is_here_is_read_here_and_only_the_rest_there(
    site: Site, digests: list[bytes]
) -> None:
    site.fill("there")
    site.serve()
    files = BlockFiles(site.folder / "here", IDENTITY, 2**20)
    theirs = BlockFiles(site.folder / "there", IDENTITY, 2**20)
    for digest in digests[:10]:
        files.write(digest, theirs.read(digest) or b"")
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 100)
        assert worker.store.counts.remote_blocks == BLOCKS - 10


def test_the_host_that_has_the_most_is_read(site: Site, digests: list[bytes]) -> None:
    site.fill("there")
    site.serve()
    theirs = BlockFiles(site.folder / "there", IDENTITY, 2**20)
    few = BlockFiles(site.folder / "another", IDENTITY, 2**20)
    for digest in digests[:5]:
        few.write(digest, theirs.read(digest) or b"")
    site.serve("another")
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 100)


def test_a_worker_that_rests_still_serves_its_blocks(site: Site) -> None:
    site.fill("there")
    exchange = site.serve()
    card = WorkerCard(
        "there", "there", 1, "1", 0, 0, (model_card(queue=QUEUE),), draining=True,
        exchange=exchange.card,
    )  # fmt: skip
    site.announcer.announce(card)
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 100)


def test_owners_share_nothing(site: Site) -> None:
    site.fill("there")
    site.serve()
    with site.worker() as worker:
        assert worker.ask("again", cache_owner="tenant") == (ANSWER, 0)


def test_blocks_of_another_model_or_version_are_not_found(site: Site) -> None:
    site.fill("there")
    site.serve()
    worker = Worker(BlockFiles(site.folder / "here", b"j" * 16, 2**20))
    worker.store.ask(site.here.remote(QUEUE, b"j" * 16, BLOCK))
    worker.engine.start()
    assert worker.ask("again") == (ANSWER, 0)
    worker.engine.stop()


def test_other_hosts_are_not_asked_if_computing_is_faster(site: Site, monkeypatch: Any) -> None:
    site.fill("there")
    site.serve()
    with site.worker() as worker:
        monkeypatch.setattr(worker.store, "remote_s", lambda _size: 1e9)
        monkeypatch.setattr(worker.engine._budget._cost, "read", lambda: (0.001, 0.001))
        assert worker.ask("again") == (ANSWER, 0)
        assert worker.store.counts.remote_blocks == 0


# Hosts that are not what they should be


@pytest.mark.parametrize("block", [0, 10, 24])
def test_a_damaged_block_is_computed(site: Site, digests: list[bytes], block: int) -> None:
    site.fill("there")
    site.serve()
    path = BlockFiles(site.folder / "there", IDENTITY, 2**20)._path(digests[block])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, block * BLOCK)


def test_a_host_with_another_token_is_not_served_and_gives_nothing(site: Site) -> None:
    site.fill("there")
    site.serve(secret="another token of it")
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 0)
        wait_until(worker.store.remote_failures)
    assert site.here._hosts.of(QUEUE) == []  # it is not asked again for a while


def test_blocks_of_who_does_not_have_the_token_are_refused(site: Site, monkeypatch: Any) -> None:
    """A false address in Redis leads to a server that takes any signature and has all blocks."""
    site.fill("there")
    false = site.serve(secret="another token of it")
    monkeypatch.setattr(false._server._token, "has_signed", lambda *_: True, raising=False)
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 0)
        wait_until(worker.store.remote_failures)


def test_a_block_is_bounded_before_it_is_read(site: Site) -> None:
    site.fill("there")
    site.serve()
    with site.worker(most_bytes=BLOCK - 1) as worker:
        assert worker.ask("again") == (ANSWER, 0)
        wait_until(worker.store.remote_failures)


@contextmanager
def listening(treat: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that treats each connection like this; give its URL."""
    with socket.create_server((LOCALHOST, 0)) as door:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                treat(connection)

        def accept() -> None:
            with suppress(OSError):  # until the door is closed
                while True:
                    connection, _ = door.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://{LOCALHOST}:{door.getsockname()[1]}"
        door.shutdown(socket.SHUT_RDWR)


def _silent(connection: socket.socket) -> None:
    while connection.recv(2**16):
        pass


def _trickling(connection: socket.socket) -> None:
    connection.recv(2**16)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    for _ in range(50):
        connection.sendall(b"\1")
        time.sleep(0.1)


def _closing(_connection: socket.socket) -> None:
    return


def _of_no_sense(connection: socket.socket) -> None:
    connection.recv(2**16)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\1\1\1\1\1\1\1\1\1")


@pytest.mark.parametrize("treat", [_silent, _trickling, _closing, _of_no_sense])
def test_a_host_that_breaks_costs_no_answer(
    site: Site, treat: Callable[[socket.socket], None], monkeypatch: Any
) -> None:
    monkeypatch.setattr(fetching, "BLOCK_S", 1.0)
    with listening(treat) as url, site.worker() as worker:
        site.announce(ExchangeCard(url, "another store"))
        began_s = time.monotonic()
        assert worker.ask("again") == (ANSWER, 0)
        assert time.monotonic() - began_s < 4.0  # no time-out of seconds was waited for
        wait_until(worker.store.remote_failures, 5.0)


def test_a_host_that_is_gone_costs_no_answer(site: Site) -> None:
    site.announce(ExchangeCard(f"http://{LOCALHOST}:{find_free_port()}", "another store"))
    with site.worker() as worker:
        assert worker.ask("again") == (ANSWER, 0)
        wait_until(worker.store.remote_failures)


# Who is asked


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://a/b", "http://a:1/x", "https://a:1", "http://a b:1", ""]
)
def test_an_address_that_is_none_is_not_called(site: Site, url: str) -> None:
    site.announce(ExchangeCard(url, "another store"))
    assert site.here._hosts.of(QUEUE) == []


def test_only_other_stores_of_the_same_queue_are_asked(site: Site) -> None:
    there = site.exchange("there", SECRET).card
    site.announce(there, "another", queue="small-cpu")
    site.announce(ExchangeCard(there.url, site.here.card.store))
    assert site.here._hosts.of(QUEUE) == []
    site.announce(there)
    site.here._hosts._looks.clear()
    assert site.here._hosts.of(QUEUE) == [there.url]


def test_a_foreign_card_is_no_host(site: Site) -> None:
    site.announce(ExchangeCard("http://127.0.0.1:1", "another store"))
    site.client.set(keys.worker("there"), b"\xff{", ex=60)
    assert site.here._hosts.of(QUEUE) == []


def test_a_store_has_one_name_for_all_who_share_it(tmp_path: Path) -> None:
    assert folder_id(tmp_path / "a") == folder_id(tmp_path / "a") != folder_id(tmp_path / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["id"]
    (tmp_path / "file").touch()
    assert folder_id(tmp_path / "file") != folder_id(tmp_path / "file")


# What is asked


class Caller:
    """Calls a host by hand."""

    def __init__(self, url: str, secret: str = SECRET) -> None:
        self.url = url
        self.token = Token(secret)

    def post(self, body: bytes, call: str = "has", age_s: float = 0.0) -> httpx.Response:
        path = path_of(IDENTITY, call)
        header = self.token.sign(path, body, clock.now_s() - age_s)
        return httpx.post(self.url + path, content=body, headers={"authorization": header})


@pytest.fixture
def caller(site: Site) -> Caller:
    return Caller(site.serve().card.url)


def test_the_bounds_of_a_request(caller: Caller) -> None:
    assert caller.post(b"x" * 16 * MOST_NAMES).content == bytes(MOST_NAMES)
    assert caller.post(b"x" * 16 * (MOST_NAMES + 1)).status_code == 413
    for body in (b"", b"x" * 15, b"x" * 17):
        assert caller.post(body).status_code == 400
    assert caller.post(b"x" * 16, call="write").status_code == 404
    assert httpx.get(f"{caller.url}/blocks/{IDENTITY.hex()}/has").status_code == 405


def test_nothing_is_answered_without_the_token(caller: Caller) -> None:
    body = b"x" * 16
    assert caller.post(body).status_code == 200
    assert Caller(caller.url, "another token of it").post(body).status_code == 401
    for age_s in (-90.0, 90.0):
        assert caller.post(body, age_s=age_s).status_code == 401
    path = path_of(IDENTITY, "has")
    stolen = caller.token.sign(path, body, clock.now_s())
    for header in ("", "Penstock", f"Bearer {SECRET}", stolen[:-1], stolen + "é", "Penstock 9:"):
        raw = [(b"authorization", header.encode())]
        assert httpx.post(caller.url + path, content=body, headers=raw).status_code == 401
    for other, content in ((path_of(IDENTITY, "read"), body), (path, b"y" * 16)):
        headers = {"authorization": stolen}
        assert httpx.post(caller.url + other, content=content, headers=headers).status_code == 401
    false = path_of(b"../../../../etc/", "has").replace("2e2e2f", "..%2f")
    header = caller.token.sign(httpx.URL(caller.url + false).path, body, clock.now_s())
    answer = httpx.post(caller.url + false, content=body, headers={"authorization": header})
    assert answer.status_code in {400, 401, 404}


def test_a_call_that_takes_too_long_loses_its_connection(site: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(server, "LONGEST_S", 0.3)
    host, port = site.serve().card.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = f"POST {path_of(IDENTITY, 'has')} HTTP/1.1\r\nhost: x\r\ncontent-length: 16\r\n\r\n"
        connection.sendall(head.encode() + b"x")
        while connection.recv(2**16):
            pass


def test_settings_that_do_not_fit_together(
    tmp_path: Path, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    def opened(**fields: Any) -> BlockExchange | None:
        return BlockExchange.of(redis_settings.model_copy(update=fields), redis_client)

    assert opened() is None
    with pytest.raises(BadSettings, match="PENSTOCK_KV_STORE is needed"):
        opened(kv_exchange_token=SECRET)
    with pytest.raises(BadSettings, match="16 characters"):
        opened(kv_exchange_token=SECRET[:15], kv_store=tmp_path)
    with pytest.raises(StartupError, match=r"PENSTOCK_KV_EXCHANGE_HOST, 192\.0\.2\.1"):
        opened(kv_exchange_token=SECRET, kv_store=tmp_path, kv_exchange_host="192.0.2.1")
    exchange = opened(kv_exchange_token=SECRET[:16], kv_store=tmp_path)
    assert exchange is not None
    assert exchange.card.url.startswith("http://127.0.0.1:")  # as it reaches Redis
    exchange.close()


def test_a_worker_of_these_settings_takes_part(
    tmp_path: Path, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(update={"kv_exchange_token": SECRET, "kv_store": tmp_path})
    served = make_served(QUEUE)
    served.store = KVStore(BlockFiles(tmp_path, IDENTITY, 2**20), BLOCK)
    assert startup.exchange_of(redis_settings, redis_client) is None
    exchange = startup.exchange_of(settings, redis_client)
    assert exchange is not None
    [queue] = startup.with_exchange(exchange, lambda _publish: [served], lambda: None)
    queue.start()
    card = card_of("w", {QUEUE: queue}, started_ms=0, draining=False)
    assert card.exchange == exchange.card
    assert Caller(exchange.card.url).post(b"x" * 16).content == b"\0"
    assert queue.store
    assert queue.store.remote_failures() == 0
    queue.start()  # a model that is loaded again
    exchange.close()


def test_workers_of_one_host_share_a_first_port(tmp_path: Path, redis_client: redis.Redis) -> None:
    first = find_free_port()
    with ExitStack() as stack:
        ports: list[int] = []
        for _ in range(2):
            exchange = BlockExchange(tmp_path, SECRET, redis_client, host=LOCALHOST, port=first)
            stack.callback(exchange.close)
            ports.append(int(exchange.card.url.rpartition(":")[2]))
    assert first <= ports[0] < ports[1] < first + server.PORTS


def test_what_was_read_of_the_registry_is_used_for_a_moment(site: Site, monkeypatch: Any) -> None:
    assert site.here._hosts.of(QUEUE) == []
    there = site.exchange("there", SECRET).card
    site.announce(there)
    assert site.here._hosts.of(QUEUE) == []
    monkeypatch.setattr(hosts, "LOOK_S", 0.0)
    assert site.here._hosts.of(QUEUE) == [there.url]
