"""Two groups of queues with a Redis each, behind one API: what happens to one leaves the other alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import redis

from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import ROOT, Processes, answers, card_of
from tests.fixtures.redis import OWNED_BY_CELERY, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MODELS = ("tiny-llama", "large-llama")
HOME_QUEUE, LARGE_QUEUE = "tiny-llama-cpu", "large-llama-cpu"
TOKENS = 300
UNDISTURBED_S = 4.0
"""The longest pause of a stream on a crowded machine; a call to a Redis that hangs takes five."""
BODY: dict[str, Any] = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
KEY = "sk-groups"
PENSTOCK = "from penstock.cli.application import main; main()"


@dataclass
class Site:
    """The home Redis, the large models' Redis, a worker at each, and two API processes."""

    home: RedisServer
    large: RedisServer
    processes: Processes
    models: Path
    env: dict[str, str]
    urls: list[str]

    def client(self, number: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.urls[number]}/v1", api_key=KEY, max_retries=0)

    def get(self, path: str, number: int = 0) -> httpx.Response:
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.get(f"{self.urls[number]}{path}", headers=headers, timeout=30)

    def offered(self, number: int = 0) -> set[str]:
        return {model["id"] for model in self.get("/v1/models", number).json()["data"]}


@dataclass
class Stream:
    """A long answer that is read in a thread of its own."""

    client: openai.OpenAI
    model: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    texts: list[str] = field(default_factory=list[str])
    arrivals_s: list[float] = field(default_factory=list[float])
    error: Exception | None = None

    def start(self) -> Stream:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: len(self.texts) > 20 or self.error, 60.0)
        return self

    def _read(self) -> None:
        body = {name: value for name, value in BODY.items() if name != "ignore_eos"}
        try:
            for chunk in self.client.completions.create(
                model=self.model, prompt="Water flows through the", stream=True,
                extra_body={"ignore_eos": True}, extra_headers=self.headers, **body,
            ):  # fmt: skip
                self.texts += [choice.text for choice in chunk.choices]
                self.arrivals_s.append(time.monotonic())
        except (openai.APIError, httpx.HTTPError) as error:
            self.error = error

    def text(self) -> str:
        self._thread.join(120.0)
        assert not self._thread.is_alive()
        assert self.error is None, self.error
        return "".join(self.texts)

    def longest_pause_s(self) -> float:
        pairs = zip(self.arrivals_s, self.arrivals_s[1:], strict=False)
        return max(after - before for before, after in pairs)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    models = folder / "models"
    models.mkdir()
    for name in MODELS:
        (models / name).symlink_to(models_dir / "tiny-llama", target_is_directory=True)
    with ExitStack() as stack:
        servers: list[RedisServer] = []
        for name in ("home", "large"):
            (folder / name).mkdir()
            server = RedisServer(folder / name, append_only=True)
            server.start()
            stack.callback(server.kill)
            servers.append(server)
        home, large = servers
        groups = {"large": {"queues": ["large-*"], "url": large.url}}
        env = {"PENSTOCK_REDIS_GROUPS": json.dumps(groups), "PENSTOCK_API_KEYS": KEY}
        processes = Processes(folder)
        stack.callback(processes.kill_all)
        workers = [
            processes.start_worker(queue, home.url, models, env=env, wait=False)
            for queue in (HOME_QUEUE, LARGE_QUEUE)
        ]
        apis = [processes.start_api(home.url, env=env, wait=False) for _ in range(2)]
        for worker, server in zip(workers, servers, strict=True):
            worker.wait_until(lambda w=worker, s=server: card_of(s.url, w.pid))
        for api in apis:
            api.wait_until(lambda api=api: answers(f"{api.url}/ready"))
        site = Site(home, large, processes, models, env, [api.url for api in apis])
        for number in range(len(apis)):  # ready with one group, and then the other's is seen
            wait_until(lambda number=number: site.offered(number) == set(MODELS))
        yield site


def names(server: RedisServer) -> list[str]:
    with redis.Redis.from_url(server.url, protocol=2) as client:
        return [key.decode() for key in client.scan_iter()]


def test_jobs_are_at_their_queues_redis_and_accounts_at_home(site: Site) -> None:
    # A test before this one may have had a group's Redis away.
    wait_until(lambda: site.offered() == set(MODELS))
    for name in MODELS:
        with site.client() as client:
            reply = client.completions.create(model=name, prompt="A river", max_tokens=5)
        assert reply.usage is not None
        assert reply.usage.completion_tokens > 0
        job = site.get(f"/v1/jobs/{reply.id.removeprefix('cmpl-')}", 1)
        assert job.status_code in {200, 404}
    home, large = names(site.home), names(site.large)
    assert any(f"{{{HOME_QUEUE}}}:job:" in name for name in home)
    assert any(f"{{{LARGE_QUEUE}}}:job:" in name for name in large)
    assert not any(LARGE_QUEUE in name for name in home)
    assert not any(HOME_QUEUE in name for name in large)
    assert any(name.startswith("penstock:usage") for name in home)
    assert not any("usage" in name or "limit" in name for name in large)


def test_a_stored_answer_of_a_group_is_read_at_another_process(site: Site) -> None:
    with site.client() as client:
        made = client.responses.create(
            model="large-llama", input="A river", max_output_tokens=20, background=True
        )
    with site.client(1) as other:
        wait_until(lambda: other.responses.retrieve(made.id).status == "incomplete", 30.0)
        assert other.responses.retrieve(made.id).output_text


def test_tokens_are_counted_by_the_groups_workers(site: Site) -> None:
    body = {"model": "large-llama", "prompt": "A river and its mill"}
    headers = {"authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{site.urls[0]}/tokenize", json=body, headers=headers, timeout=30)
    assert reply.status_code == 200, reply.text
    assert reply.json()["count"] > 0


def test_a_killed_redis_stops_its_group_alone(site: Site) -> None:
    """Kill -9, a while without it, and a start from its file; both groups have streams meanwhile."""
    with site.client() as client:
        right = Stream(client, "tiny-llama").start().text()
        keyed = Stream(client, "large-llama", {"Idempotency-Key": "one"}).start()
        home = Stream(client, "tiny-llama").start()
        site.large.kill()
        killed_s = time.monotonic()
        assert home.text() == right
        assert home.longest_pause_s() < UNDISTURBED_S
        # All that the home Redis has works on, new requests too.
        for number in range(2):
            with site.client(number) as other:
                assert Stream(other, "tiny-llama").start().text() == right
        wait_until(lambda: 'penstock_redis_group_up{group="large"} 0.0' in metrics(site), 10.0)
        assert "penstock_redis_up 1.0" in metrics(site)
        shown = status(site)
        assert "The Redis of large does not answer." in shown
        assert HOME_QUEUE in shown
        wait_until(lambda: time.monotonic() - killed_s > 3.0, 10.0)
        site.large.start(established=False)
        assert keyed.text() == right
    wait_until(lambda: 'penstock_redis_group_up{group="large"} 1.0' in metrics(site), 10.0)


def test_a_redis_that_hangs_holds_up_nobody_else(site: Site) -> None:
    with site.client() as client:
        right = Stream(client, "tiny-llama").start().text()
        hung = Stream(client, "large-llama", {"Idempotency-Key": "two"}).start()
        site.large.send(signal.SIGSTOP)
        try:
            for _ in range(2):
                home = Stream(client, "tiny-llama").start()
                assert home.text() == right
                assert home.longest_pause_s() < UNDISTURBED_S
        finally:
            site.large.send(signal.SIGCONT)
        assert hung.text() == right


def test_nothing_is_left_without_an_end(site: Site) -> None:
    for server in (site.home, site.large):
        with redis.Redis.from_url(server.url, protocol=2) as client:
            kept = [key.decode() for key in client.scan_iter() if client.ttl(key) == -1]
        assert not [
            name for name in kept if not name.startswith((*OWNED_BY_CELERY, "penstock:keys"))
        ]


def test_a_worker_of_two_groups_is_refused(site: Site) -> None:
    worker = site.processes.start_worker(
        f"{HOME_QUEUE},{LARGE_QUEUE}", site.home.url, site.models, env=site.env, wait=False
    )
    assert worker.wait(60.0) != 0
    assert f"{LARGE_QUEUE}, {HOME_QUEUE} have different Redis" in worker.output()
    assert "Traceback" not in worker.output()


def metrics(site: Site) -> str:
    return httpx.get(f"{site.urls[0]}/metrics", timeout=30).text


def status(site: Site) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PENSTOCK, "status", "--once"],
        env={**site.env, "PENSTOCK_REDIS_URL": site.home.url, "PYTHONPATH": f"{ROOT}/src:{ROOT}",
             "PATH": "/usr/bin:/bin", "COLUMNS": "120"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
