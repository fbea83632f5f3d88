"""A worker of several models with room for one: loads, unloads, failures, and its own end."""

from __future__ import annotations

import asyncio
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from penstock.contract.events import Failed, Finished
from penstock.contract.job import TextPrompt
from penstock.contract.tokenizer_calls import Tokenize
from penstock.transport import keys
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.models import write_tiny_llama
from tests.fixtures.processes import card_of

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.fixtures.processes import Processes, Running
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

A, B = "tiny-llama-cpu", "bigdl-tiny-cpu"
BAD = "hollow-cpu"
ONE = {"PENSTOCK_RESIDENT_MODELS": "1"}


@pytest.fixture
def folders(models_dir: Path, tmp_path: Path) -> Path:
    """The two tiny models, and one whose weights are damaged."""
    for folder in models_dir.iterdir():
        (tmp_path / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
    hollow = tmp_path / "hollow"
    shutil.copytree(models_dir / "tiny-llama", hollow)
    (hollow / "model.safetensors").write_bytes(b"\\x08\\0\\0\\0\\0\\0\\0\\0not json")
    return tmp_path


def statuses(redis_url: str, worker: Running) -> dict[str, str]:
    card = card_of(redis_url, worker.pid)
    return {} if card is None else {queue: state.status for queue, state in card.states.items()}


async def take_turns(worker: Running, submitter: Submitter, redis_url: str) -> dict[str, str]:
    """Ask both models twice in turns: each is loaded for its answer, which stays the same."""
    first: dict[str, str] = {}
    for turn in range(2):
        for queue, other in ((A, B), (B, A)):
            answer = await submitter.ask(queue)
            assert isinstance(answer.end, Finished)
            assert first.setdefault(queue, answer.text) == answer.text, turn
            wait_until(lambda: statuses(redis_url, worker)[queue] == "loaded")  # noqa: B023
            assert statuses(redis_url, worker)[other] == "on_demand"
    return first


async def test_two_models_take_turns_in_one_place_and_a_bad_one_leaves_them_served(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    worker = processes.start_worker(f"{A},{B},{BAD}", redis_url, folders, env=ONE)
    api = processes.start_api(redis_url)
    assert statuses(redis_url, worker) == dict.fromkeys((A, B, BAD), "on_demand")
    first = await take_turns(worker, submitter, redis_url)
    assert first[A] != first[B]

    async with httpx.AsyncClient(base_url=api.url, timeout=30.0) as http:
        expected = {"bigdl-tiny": "loaded", "hollow": "on_demand", "tiny-llama": "on_demand"}
        await wait_until_async(lambda: _is(partial(listed, http), expected))
        loaded = (await http.get("/api/ps")).json()["models"]
        assert [one["name"] for one in loaded] == ["bigdl-tiny"]
        body = {"model": "hollow", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        refused = await http.post("/v1/chat/completions", json=body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_load_failed"
        assert "hollow" in refused.json()["error"]["message"]
        again = await http.post("/v1/chat/completions", json=body)  # at once: it is not tried again
        assert again.status_code == 503
        served = await http.post("/v1/chat/completions", json={**body, "model": "tiny-llama"})
        assert served.status_code == 200
        await wait_until_async(
            lambda: _is(
                partial(fleet, http), {A: ("loaded", 3), B: ("on_demand", 2), BAD: ("failed", 0)}
            )
        )
        metrics = (await http.get("/metrics")).text
        assert 'penstock_model_loaded{device="cpu",model="tiny-llama"' in metrics
    assert worker.stop() == 0


async def test_models_that_openvino_computes_take_turns_too(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    pytest.importorskip("openvino")
    models_file = folders / "models.toml"
    names = [queue.removesuffix("-cpu") for queue in (A, B)]
    models_file.write_text("".join(f'[models.{name}]\nbackend = "openvino"\n' for name in names))
    env = {**ONE, "PENSTOCK_MODELS_FILE": str(models_file)}
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=env)
    await take_turns(worker, submitter, redis_url)
    assert "(openvino)" in worker.output()
    assert worker.stop() == 0


async def test_both_are_served_under_load_without_a_change_for_each_job(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=ONE)
    ids = [(queue, await submitter.submit(queue)) for _ in range(20) for queue in (A, B)]
    answers = await asyncio.gather(*(submitter.answer(*one) for one in ids))
    assert all(isinstance(answer.end, Finished) for answer in answers)
    card = card_of(redis_url, worker.pid)
    assert card is not None
    assert sum(state.loads for state in card.states.values()) <= 6
    assert worker.stop() == 0


async def test_a_model_in_use_for_long_hands_its_jobs_back_and_goes_on_later(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    env = {**ONE, "PENSTOCK_DRAIN_S": "0.2"}
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=env)
    expected = (await submitter.ask(A, max_tokens=1900)).token_ids
    job_id = await submitter.submit(A, max_tokens=1900)
    await submitter.until_tokens(A, job_id, 3)
    assert isinstance((await submitter.ask(B)).end, Finished)
    answer = await submitter.answer(A, job_id)
    assert answer.token_ids == expected
    assert (await submitter.queue.state(job_id)).epoch >= 2  # handed back in mid-answer
    assert worker.stop() == 0


async def test_waiting_for_a_model_ends_at_the_deadline_or_by_cancelling(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    """The one place is pinned by work without an end; what waits is no job of the worker's."""
    env = {**ONE, "PENSTOCK_DRAIN_S": "60"}
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=env)
    long = await submitter.submit(A, max_tokens=2000)
    await submitter.until_tokens(A, long, 2)
    waiting = await submitter.submit(B)
    assert await submitter.queue.cancel(waiting) == "cancelled"
    end = (await submitter.answer(B, waiting)).end
    assert isinstance(end, Failed)
    assert end.code == "cancelled"
    await submitter.queue.cancel(long)
    await submitter.answer(A, long)
    assert worker.stop() == 0


async def test_an_idle_model_is_unloaded_in_its_time(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    models_file = folders / "models.toml"
    models_file.write_text("[models.tiny-llama]\nkeep_alive_s = 0.3\n")
    env = {**ONE, "PENSTOCK_MODELS_FILE": str(models_file)}
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=env)
    assert isinstance((await submitter.ask(A)).end, Finished)

    def state() -> tuple[str, int]:
        card = card_of(redis_url, worker.pid)
        return ("", 0) if card is None else (card.states[A].status, card.states[A].loads)

    wait_until(lambda: state() == ("on_demand", 1))
    # A call for its tokenizer needs no load.
    assert (await submitter.call(A, Tokenize(TextPrompt("Paris")))).token_ids
    assert worker.stop() == 0


async def test_unloading_frees_the_memory(
    processes: Processes, submitter: Submitter, redis_url: str, tmp_path: Path
):
    for seed, name in enumerate(("one", "two")):
        write_tiny_llama(tmp_path / name, hidden_size=512, layers=4, seed=seed)
    weights_bytes = (tmp_path / "one" / "model.safetensors").stat().st_size
    worker = processes.start_worker("one-cpu,two-cpu", redis_url, tmp_path, env=ONE)
    used: list[int] = []
    for _ in range(4):
        for queue in ("one-cpu", "two-cpu"):
            await submitter.ask(queue)
            used.append(psutil.Process(worker.pid).memory_info().rss)
    assert max(used[4:]) - used[1] < 2 * weights_bytes
    assert worker.stop() == 0


async def test_a_worker_killed_while_it_loads_leaves_the_job_to_the_next(
    processes: Processes,
    submitter: Submitter,
    redis_url: str,
    redis_client: redis.Redis,
    folders: Path,
):
    first = processes.start_worker(f"{A},{B}", redis_url, folders, env=ONE)
    job_id = await submitter.submit(A)
    end_s = time.monotonic() + 30.0
    while not redis_client.exists(keys.loading(A)):
        assert time.monotonic() < end_s
    first.kill()
    assert (await submitter.queue.state(job_id)).epoch == 0  # nobody has claimed it
    second = processes.start_worker(f"{A},{B}", redis_url, folders, env=ONE)
    answer = await submitter.answer(A, job_id)
    assert isinstance(answer.end, Finished)
    wait_until(lambda: not redis_client.exists(keys.load_tries(A)))
    assert second.stop() == 0


async def test_a_model_that_ends_its_workers_is_given_up(
    processes: Processes,
    submitter: Submitter,
    redis_url: str,
    redis_client: redis.Redis,
    folders: Path,
):
    redis_client.set(keys.load_tries(A), 3, ex=60)  # as three killed workers left it
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=ONE)
    end = (await submitter.ask(A)).end
    assert isinstance(end, Failed)
    assert end.code == "model_load_failed"
    assert "ended 3 workers" in end.message
    assert isinstance((await submitter.ask(B)).end, Finished)
    assert worker.stop() == 0
    redis_client.delete(keys.load_tries(A))


async def test_two_workers_share_the_models_among_them(
    processes: Processes, submitter: Submitter, redis_url: str, folders: Path
):
    workers = [processes.start_worker(f"{A},{B}", redis_url, folders, env=ONE) for _ in range(2)]
    await submitter.ask(A)
    await submitter.ask(B)

    async def loaded() -> set[tuple[str, ...]]:
        return {
            tuple(queue for queue, status in statuses(redis_url, one).items() if status == "loaded")
            for one in workers
        }

    await wait_until_async(lambda: _is(loaded, {(A,), (B,)}), 10.0)
    for _ in range(3):
        await submitter.ask(A)
        await submitter.ask(B)
    assert await loaded() == {(A,), (B,)}  # nobody had to load anything again


async def listed(http: httpx.AsyncClient) -> dict[str, str]:
    models = (await http.get("/v1/models")).json()["data"]
    return {one["id"]: one["state"] for one in models}


async def fleet(http: httpx.AsyncClient) -> dict[str, tuple[str, int]]:
    models = (await http.get("/admin/fleet")).json()["workers"][0]["models"]
    return {one["queue"]: (one["state"], one["loads"]) for one in models}


async def _is(read: Any, expected: Any) -> bool:
    return await read() == expected


def test_pinned_models_leave_room(processes: Processes, redis_url: str, folders: Path):
    models_file = folders / "models.toml"
    models_file.write_text("[models.tiny-llama]\nkeep_alive_s = -1\n")
    env = {**ONE, "PENSTOCK_MODELS_FILE": str(models_file)}
    worker = processes.start_worker(f"{A},{B}", redis_url, folders, env=env, wait=False)
    assert worker.wait(60) == 1
    assert "PENSTOCK_RESIDENT_MODELS" in worker.output().strip().splitlines()[-1]
