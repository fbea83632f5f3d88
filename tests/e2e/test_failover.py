"""Workers die or leave in mid-stream; what the client gets is what nobody disturbed."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import openai
import pytest

from penstock.contract.events import Failed, Finished
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.processes import card_of

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.transport.jobs.queue import JobState
    from tests.fixtures.processes import Processes
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"
TOKENS = 400
PROMPT = "Water flows through the"
GREEDY: dict[str, Any] = {"temperature": 0.0}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 7}


async def test_a_killed_workers_jobs_go_on_where_they_were(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    first = processes.start_worker(QUEUE, redis_url, models_dir)
    jobs = [
        await submitter.submit(QUEUE, PROMPT, max_tokens=TOKENS, **sampling)
        for sampling in (GREEDY, SAMPLED)
    ]
    for job_id in jobs:
        await submitter.until_tokens(QUEUE, job_id, 40)
    first.kill()
    before = [await submitter.events(QUEUE, job_id) for job_id in jobs]

    processes.start_worker(QUEUE, redis_url, models_dir)
    for job_id, seen, sampling in zip(jobs, before, (GREEDY, SAMPLED), strict=True):
        answer = await submitter.answer(QUEUE, job_id)
        assert answer.events[: len(seen)] == tuple(seen)
        undisturbed = await submitter.ask(QUEUE, PROMPT, max_tokens=TOKENS, **sampling)
        assert answer.token_ids == undisturbed.token_ids
        assert answer.text == undisturbed.text
        assert isinstance(answer.end, Finished)
        assert answer.end.usage.completion_tokens == TOKENS
        assert (await submitter.queue.state(job_id)).lost == 1


async def test_a_killed_workers_job_does_not_wait_for_a_slot(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    both = [
        processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "1"), wait=False)
        for _ in range(2)
    ]
    for worker in both:  # or the first answer ends before the second begins
        worker.wait_until(lambda worker=worker: card_of(redis_url, worker.pid))
    jobs = [await submitter.submit(QUEUE, max_tokens=1800) for _ in both]
    for job_id in jobs:
        await submitter.until_tokens(QUEUE, job_id, 10)
    waiting = await submitter.submit(QUEUE)
    holder = (await submitter.queue.state(jobs[0])).worker
    (dying,) = [worker for worker in both if f":{worker.pid}:" in holder]
    dying.kill()
    left_at = len(await submitter.events(QUEUE, jobs[0]))
    await wait_until_async(lambda: beyond(submitter, jobs[0], left_at), 30.0)
    # It goes on beside the survivor's own answer; what nobody had waits for that one's end.
    assert (await submitter.queue.state(jobs[1])).status == "running"
    assert (await submitter.queue.state(waiting)).status == "waiting"
    answers = [await submitter.answer(QUEUE, job_id) for job_id in (*jobs, waiting)]
    assert answers[0].token_ids == answers[1].token_ids
    assert isinstance(answers[2].end, Finished)


async def test_a_job_that_takes_down_every_worker_is_given_up(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    fleet = [
        processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "1"), wait=False)
        for _ in range(4)
    ]
    job_id = await submitter.submit(QUEUE, max_tokens=2000)
    for epoch in (1, 2, 3):
        state = await wait_until_async(lambda epoch=epoch: runs_as(submitter, job_id, epoch), 60.0)
        (holder,) = [worker for worker in fleet if f":{worker.pid}:" in state.worker]
        holder.kill()
        fleet.remove(holder)
    (healthy,) = fleet
    end = (await submitter.answer(QUEUE, job_id)).end
    assert isinstance(end, Failed)
    assert end.code == "poison_job"
    assert (await submitter.queue.state(job_id)).epoch == 3  # no fourth worker has had it
    assert isinstance((await submitter.ask(QUEUE)).end, Finished)
    assert healthy.exit_code() is None


async def runs_as(submitter: Submitter, job_id: str, epoch: int) -> JobState | None:
    state = await submitter.queue.state(job_id)
    return state if state.epoch == epoch and state.status == "running" else None


async def test_a_leaving_worker_finishes_what_it_can(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    worker = processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "1"))
    running = await submitter.submit(QUEUE, max_tokens=300)
    await submitter.until_tokens(QUEUE, running, 10)
    waiting = await submitter.submit(QUEUE)
    assert worker.stop() == 0
    answer = await submitter.answer(QUEUE, running, timeout_s=1.0)
    assert answer.end.index == 300
    state = await submitter.queue.state(waiting)
    assert (state.status, state.epoch) == ("waiting", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_leaving_worker_hands_over_at_once_what_it_cannot_finish(
    processes: Processes,
    submitter: Submitter,
    redis_url: str,
    models_dir: Path,
    number: signal.Signals,
):
    # A lease that would be noticed: what goes on within it was handed back.
    env = {"PENSTOCK_LEASE_MS": "60000", "PENSTOCK_DRAIN_S": "0.1"}
    both = [
        processes.start_worker(QUEUE, redis_url, models_dir, env=env, wait=wait)
        for wait in (False, True)
    ]
    both[0].wait_until(lambda: card_of(redis_url, both[0].pid))
    job_id = await submitter.submit(QUEUE, max_tokens=1500)
    await submitter.until_tokens(QUEUE, job_id, 40)
    holder = (await submitter.queue.state(job_id)).worker
    (leaving,) = [worker for worker in both if f":{worker.pid}:" in holder]
    leaving.send(number)
    assert leaving.wait() == 0
    left_at = len(await submitter.events(QUEUE, job_id))
    await wait_until_async(lambda: beyond(submitter, job_id, left_at), 5.0)
    answer = await submitter.answer(QUEUE, job_id)
    assert answer.token_ids == (await submitter.ask(QUEUE, max_tokens=1500)).token_ids
    state = await submitter.queue.state(job_id)
    assert (state.epoch, state.lost, state.worker != holder) == (2, 0, True)


async def beyond(submitter: Submitter, job_id: str, count: int) -> bool:
    return len(await submitter.events(QUEUE, job_id)) > count


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)],
    ids=["SIGINT-SIGINT", "SIGQUIT"],
)
async def test_a_worker_in_a_hurry_hands_everything_over(
    processes: Processes,
    submitter: Submitter,
    redis_url: str,
    models_dir: Path,
    signals: tuple[signal.Signals, ...],
):
    env = {"PENSTOCK_LEASE_MS": "60000", "PENSTOCK_DRAIN_S": "60"}
    worker = processes.start_worker(QUEUE, redis_url, models_dir, env=env)
    job_id = await submitter.submit(QUEUE, max_tokens=2000)
    await submitter.until_tokens(QUEUE, job_id, 20)
    for number in signals:
        worker.send(number)
        wait_until(lambda: "shutdown (MainProcess)" in worker.output())
    worker.wait(10.0)
    state = await submitter.queue.state(job_id)
    assert (state.status, state.lost) == ("waiting", 0)
    assert 0 < state.next_index < 2000


class Reader(threading.Thread):
    """Asks for a streamed completion and gathers its text as it comes."""

    def __init__(
        self,
        client: openai.OpenAI,
        sampling: dict[str, Any],
        *,
        model: str = "tiny-llama",
        max_tokens: int = TOKENS,
    ) -> None:
        super().__init__(daemon=True)
        self.pieces: list[str] = []
        self.job_id = ""
        self._client = client
        self._asked: dict[str, Any] = {"model": model, "max_tokens": max_tokens, **sampling}
        self.start()

    def run(self) -> None:
        for chunk in self._client.completions.create(
            prompt=PROMPT, stream=True, extra_body={"ignore_eos": True}, **self._asked
        ):
            self.job_id = chunk.id.removeprefix("cmpl-")
            self.pieces.extend(choice.text for choice in chunk.choices)

    def text(self) -> str:
        """Return the whole text once the stream has ended."""
        self.join(60.0)
        assert not self.is_alive()
        return "".join(self.pieces)


def test_a_client_of_openai_sees_a_pause_and_nothing_else(
    processes: Processes, redis_url: str, models_dir: Path
):
    # Keep-alives come within the pause, and must not be taken for events.
    api = processes.start_api(redis_url, env={"PENSTOCK_KEEPALIVE_S": "0.5"})
    first = processes.start_worker(QUEUE, redis_url, models_dir)
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        wait_until(lambda: [model.id for model in client.models.list()] == ["tiny-llama"])
        readers = [Reader(client, sampling) for sampling in (GREEDY, SAMPLED)]
        for reader in readers:
            wait_until(lambda reader=reader: len(reader.pieces) > 40, 60.0)
        first.kill()
        assert all(reader.is_alive() for reader in readers)
        processes.start_worker(QUEUE, redis_url, models_dir)
        disturbed = [reader.text() for reader in readers]
        undisturbed = [Reader(client, sampling).text() for sampling in (GREEDY, SAMPLED)]
    assert disturbed == undisturbed
    assert all(len(reader.pieces) > TOKENS // 2 for reader in readers)
