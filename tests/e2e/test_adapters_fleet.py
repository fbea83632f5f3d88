"""LoRA adapters behind HTTP: of the models file and loaded at run time, in batches, after a worker's death."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis

from penstock.transport import keys
from tests.fixtures.adapters import merged, write_adapter
from tests.fixtures.models import write_tiny_llama, write_tokenizer
from tests.fixtures.processes import cards, store_and_processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytest.importorskip("peft")
pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUES = "tiny-cpu,merged-sql-cpu,merged-poem-cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return models, two adapters, and what PEFT makes of the model with each."""
    folder = tmp_path_factory.mktemp("adapters-fleet")
    base = write_tiny_llama(folder / "models" / "tiny")
    for seed, (name, path) in enumerate(
        (("sql", folder / "sql"), ("poem", folder / "adapters" / "poem"))
    ):
        write_adapter(path, base, seed=seed, rank=4 + seed)
        whole = folder / "models" / f"merged-{name}"
        merged(base, path).save_pretrained(whole)
        write_tokenizer(whole)
    (folder / "models.toml").write_text('[models.tiny]\nadapters = { sql = "sql" }\n')
    return folder


class Fleet:
    """One API process and the workers of one Redis."""

    def __init__(self, folder: Path, redis_url: str, processes: Processes) -> None:
        self.folder, self.redis_url, self.processes = folder, redis_url, processes
        self.workers = [self.start_worker()]
        api = processes.start_api(redis_url)
        self.client = httpx.Client(base_url=api.url, timeout=60.0)

    def start_worker(self) -> Any:
        """Start one more worker."""
        settings = {
            "PENSTOCK_MODELS_FILE": str(self.folder / "models.toml"),
            "PENSTOCK_ADAPTERS_DIR": str(self.folder / "adapters"),
            "PENSTOCK_MAX_ADAPTERS": "1",
        }
        return self.processes.start_worker(
            QUEUES, self.redis_url, self.folder / "models", env=settings
        )

    def answer(self, model: str, count: int = 24, **more: Any) -> str:
        """Return a greedy answer."""
        asked = {"model": model, "prompt": "Water flows", "temperature": 0, "max_tokens": count}
        answer = self.client.post("/v1/completions", json=asked | {"ignore_eos": True} | more)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()["choices"][0]["text"]

    def load(self, name: str, path: str, **more: Any) -> httpx.Response:
        """Load an adapter at run time."""
        asked = {"lora_name": name, "lora_path": path} | more
        return self.client.post("/v1/load_lora_adapter", json=asked)


@pytest.fixture(scope="module")
def fleet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a running fleet."""
    with store_and_processes(tmp_path_factory.mktemp("store")) as (redis_url, processes):
        fleet = Fleet(folder, redis_url, processes)
        with fleet.client:
            yield fleet


def test_adapters_of_the_models_file_are_served_beside_the_base(fleet: Fleet) -> None:
    expected = {name: fleet.answer(f"merged-{name}") for name in ("sql", "poem")}
    base = fleet.answer("tiny")
    assert len({base, *expected.values()}) == 3
    with ThreadPoolExecutor(6) as pool:  # mixed in one batch
        names = ["sql", "tiny", "sql", "tiny", "sql", "tiny"]
        assert list(pool.map(fleet.answer, names)) == [expected["sql"], base] * 3

    listed = {model["id"]: model for model in fleet.client.get("/v1/models").json()["data"]}
    assert listed["sql"]["parent"] == "tiny"
    assert listed["sql"]["root"] == str(fleet.folder / "sql")
    assert listed["tiny"]["parent"] is None
    assert fleet.client.get("/v1/models/sql").json()["parent"] == "tiny"
    assert fleet.client.post("/list_models").json()["models"].count("sql") == 1
    told = fleet.client.post(
        "/worker_generate",
        json={"model": "sql", "prompt": "Water flows", "temperature": 0, "max_new_tokens": 24},
    ).json()
    assert told["text"].startswith("Water flows" + expected["sql"][:6])


def test_adapters_come_and_go_at_run_time(fleet: Fleet) -> None:
    assert fleet.client.post(
        "/v1/completions", json={"model": "poem", "prompt": "x"}
    ).status_code == httpx.codes.NOT_FOUND  # fmt: skip
    loaded = fleet.load("poem", "poem", base_model_name="tiny")
    assert loaded.text == "Success: LoRA adapter 'poem' added successfully."
    expected = fleet.answer("merged-poem")
    assert fleet.answer("poem") == expected
    # One adapter is in memory at once here: each takes the other's place.
    assert fleet.answer("sql") == fleet.answer("merged-sql")
    assert fleet.answer("poem") == expected
    queues = {one["queue"]: one for one in fleet.client.get("/admin/fleet").json()["queues"]}
    assert queues["tiny-cpu"]["adapters"] == ["poem", "sql"]
    assert any(worker.adapters.get("tiny-cpu") == ("poem",) for worker in _told(fleet))

    again = fleet.load("poem", "poem", base_model_name="tiny")
    assert again.status_code == httpx.codes.OK  # the same again changes nothing
    for name, path, reason in (
        ("poem", str(fleet.folder / "sql"), "no folder below"),
        ("other", "../sql", "no folder below"),
        ("other", "nowhere", "no folder below"),
        ("tiny", "poem", "name of a served model"),
        ("a b", "poem", "a name is made of"),
    ):
        refused = fleet.load(name, path, base_model_name="tiny")
        assert refused.status_code == httpx.codes.BAD_REQUEST
        assert reason in refused.json()["error"]["message"]
    assert "choose one" in fleet.load("other", "poem").json()["error"]["message"]
    unknown = fleet.load("other", "poem", base_model_name="nothing")
    assert unknown.status_code == httpx.codes.NOT_FOUND


def test_an_answer_goes_on_at_a_worker_that_has_not_loaded_its_adapter(fleet: Fleet) -> None:
    fleet.load("poem", "poem", base_model_name="tiny")
    expected = fleet.answer("merged-poem", 400)
    texts: list[str] = []
    asking = threading.Thread(target=lambda: texts.append(fleet.answer("poem", 400)))
    first = fleet.workers[0]
    asking.start()
    first.wait_until(lambda: any(card.loads["tiny-cpu"].running for card in cards(fleet.redis_url)))
    first.kill()
    fleet.workers = [fleet.start_worker()]
    asking.join(60)
    assert texts == [expected]


def test_an_unloaded_adapter_is_unknown(fleet: Fleet) -> None:
    fleet.load("poem", "poem", base_model_name="tiny")
    with redis.Redis.from_url(fleet.redis_url, protocol=2) as client:
        assert client.hexists(keys.ADAPTERS, "poem")
    unload = lambda name: fleet.client.post("/v1/unload_lora_adapter", json={"lora_name": name})  # noqa: E731
    assert unload("poem").text == "Success: LoRA adapter 'poem' removed successfully."
    asked = {"model": "poem", "prompt": "x"}
    gone = fleet.client.post("/v1/completions", json=asked)
    assert gone.status_code == httpx.codes.NOT_FOUND
    assert gone.json()["error"]["code"] == "model_not_found"
    assert unload("poem").status_code == httpx.codes.NOT_FOUND
    assert unload("sql").status_code == httpx.codes.BAD_REQUEST  # the models file's


def _told(fleet: Fleet) -> list[Any]:
    """Return the workers' cards, once the heartbeat after the last answer has come."""
    fleet.workers[0].wait_until(
        lambda: any(card.adapters.get("tiny-cpu") == ("poem",) for card in cards(fleet.redis_url))
    )
    return cards(fleet.redis_url)
