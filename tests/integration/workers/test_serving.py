"""A real `celery -A workers worker` with a tiny real model."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Failed, Finished, FinishReason
from penstock.contract.job import ChatPrompt, TextPrompt, TokenPrompt
from penstock.contract.tokenizer_calls import Detokenize, Render, Tokenize
from penstock.errors import ContextOverflow, InvalidParameter
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.processes import card_of, inspect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"
OTHER = "twin-cpu"


@pytest.fixture
def two_models(models_dir: Path, tmp_path: Path) -> Path:
    """The same tiny model under two names."""
    for name in ("tiny-llama", "twin"):
        (tmp_path / name).symlink_to(models_dir / "tiny-llama", target_is_directory=True)
    return tmp_path


def generate(folder: Path, prompt_token_ids: list[int], count: int) -> list[int]:
    """What Transformers itself says, greedily."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    output = model.generate(
        torch.tensor([prompt_token_ids]),
        attention_mask=torch.ones(1, len(prompt_token_ids), dtype=torch.long),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
        pad_token_id=0,
    )
    return output[0, len(prompt_token_ids) :].tolist()


async def test_jobs_of_every_kind(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path, tiny_llama: Path
):
    worker = processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "3"), cold=True)
    card = card_of(redis_url, worker.pid)
    assert card is not None
    assert [(model.queue, model.slots) for model in card.models] == [(QUEUE, 3)]

    prompt = [11, 42, 99, 300]
    answer = await submitter.ask(QUEUE, TokenPrompt(tuple(prompt)), max_tokens=12, min_tokens=12)
    assert answer.token_ids == generate(tiny_llama, prompt, 12)
    assert isinstance(answer.end, Finished)
    assert answer.end.reason is FinishReason.LENGTH
    assert (answer.end.usage.prompt_tokens, answer.end.usage.completion_tokens) == (4, 12)

    many = [await submitter.submit(QUEUE, max_tokens=20, seed=seed) for seed in range(9)]
    texts = {(await submitter.answer(QUEUE, job_id)).text for job_id in many}
    assert len(texts) == 1

    chat = ChatPrompt(({"role": "user", "content": "hello"},))
    assert isinstance((await submitter.ask(QUEUE, chat)).end, Finished)

    stranger = await submitter.ask(QUEUE, ChatPrompt(({"role": "stranger", "content": "hello"},)))
    assert isinstance(stranger.end, Failed)
    assert stranger.end.code == "invalid_parameter"
    assert "stranger" in stranger.end.message

    long = await submitter.ask(QUEUE, TokenPrompt((5,) * 3000))
    assert isinstance(long.end, Failed)
    assert long.end.code == "context_length_exceeded"

    await small_calls(submitter)
    await long_prompts(submitter)

    assert "Loaded tiny-llama-cpu: 140K parameters" in worker.output()
    assert worker.stop() == 0
    assert card_of(redis_url, worker.pid) is None
    assert "Traceback" not in worker.output()


async def long_prompts(submitter: Submitter) -> None:
    """Prompts of megabytes are refused at once, while others are served."""
    text = "all of these words are too many " * 250_000  # 8 MB
    chat = ChatPrompt(({"role": "user", "content": text},))
    began_s = time.monotonic()
    refused = [await submitter.submit(QUEUE, prompt) for prompt in (TextPrompt(text), chat)]
    short = await submitter.ask(QUEUE, TextPrompt("a short one"), max_tokens=1)
    assert isinstance(short.end, Finished)
    with pytest.raises(ContextOverflow):
        await submitter.call(QUEUE, Tokenize(TextPrompt(text)))
    for job_id in refused:
        end = (await submitter.answer(QUEUE, job_id)).end
        assert isinstance(end, Failed)
        assert end.code == "context_length_exceeded"
        assert "characters" in end.message
    assert time.monotonic() - began_s < 10  # it was a minute when they were tokenised


async def small_calls(submitter: Submitter) -> None:
    text = "Größe, 🙂"
    reply = await submitter.call(QUEUE, Tokenize(TextPrompt(text)))
    assert len(reply.token_ids) > 3
    assert (await submitter.call(QUEUE, Detokenize(reply.token_ids))).text == text
    chat = ChatPrompt(({"role": "user", "content": "hello"},))
    rendered = (await submitter.call(QUEUE, Render(chat))).text
    assert rendered == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(InvalidParameter, match="stranger"):
        await submitter.call(QUEUE, Render(ChatPrompt(({"role": "stranger", "content": ""},))))


async def test_a_cancelled_job_frees_its_slot(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "1"))
    long = await submitter.submit(QUEUE, max_tokens=2000)
    await submitter.until_tokens(QUEUE, long, 5)
    short = await submitter.submit(QUEUE)
    assert await submitter.queue.cancel(long) == "requested"
    assert isinstance((await submitter.answer(QUEUE, short)).end, Finished)
    cancelled = (await submitter.answer(QUEUE, long)).end
    assert isinstance(cancelled, Failed)
    assert (cancelled.code, cancelled.index < 2000) == ("cancelled", True)


async def test_a_full_queue_does_not_starve_the_other(
    processes: Processes, submitter: Submitter, redis_url: str, two_models: Path
):
    worker = processes.start_worker(f"{QUEUE},{OTHER}", redis_url, two_models, options=("-c", "2"))
    card = card_of(redis_url, worker.pid)
    assert card is not None
    assert len(card.models) == 2
    # More than all slots of the worker together, and more bells than it may prefetch.
    flood = [await submitter.submit(QUEUE, max_tokens=150) for _ in range(12)]
    await submitter.until_tokens(QUEUE, flood[0], 5)
    other = [await submitter.ask(OTHER) for _ in range(3)]
    assert all(isinstance(answer.end, Finished) for answer in other)
    assert not await submitter.events(QUEUE, flood[-1])
    answers = [await submitter.answer(QUEUE, job_id) for job_id in flood]
    assert len({answer.text for answer in answers}) == 1
    # Both are consumed again, and no slot has got lost.
    again = [await submitter.submit(queue) for queue in (QUEUE, OTHER) * 4]
    for queue, job_id in zip((QUEUE, OTHER) * 4, again, strict=True):
        assert isinstance((await submitter.answer(queue, job_id)).end, Finished)


async def test_a_stopped_worker_is_fenced_when_it_wakes(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    first = processes.start_worker(QUEUE, redis_url, models_dir)
    job_id = await submitter.submit(QUEUE, max_tokens=200)
    await submitter.until_tokens(QUEUE, job_id, 20)
    first.send(signal.SIGSTOP)
    second = processes.start_worker(QUEUE, redis_url, models_dir)
    await wait_until_async(lambda: epoch_is(submitter, job_id, 2), 30.0)
    first.send(signal.SIGCONT)
    answer = await submitter.answer(QUEUE, job_id)
    assert answer.text == (await submitter.ask(QUEUE, max_tokens=200)).text
    assert second.stop() == 0
    assert isinstance((await submitter.ask(QUEUE)).end, Finished)
    assert first.stop() == 0


async def epoch_is(submitter: Submitter, job_id: str, epoch: int) -> bool:
    return (await submitter.queue.state(job_id)).epoch == epoch


async def test_remote_control_sees_the_worker(
    processes: Processes, redis_url: str, models_dir: Path
):
    processes.start_worker(QUEUE, redis_url, models_dir)

    assert wait_until(lambda: "pong" in inspect(redis_url, "ping", "-t", "5").stdout, 30.0)
    assert "workers.delivery.pool:EnginePool" in inspect(redis_url, "stats", "-t", "5").stdout


async def test_an_engine_that_hangs_ends_the_process(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
):
    # Every step is longer than this one allows.
    env = {"PENSTOCK_HUNG_STEP_S": "0.00001", "PENSTOCK_LEASE_MS": "200"}
    worker = processes.start_worker(QUEUE, redis_url, models_dir, env=env)
    job_id = await submitter.submit(QUEUE, max_tokens=2000)
    assert worker.wait() == os.EX_SOFTWARE
    assert "its engine has hung" in worker.output()
    # The job is not handed back, which would not count, but left to its lease, which does.
    assert not isinstance((await submitter.events(QUEUE, job_id))[-1:], Finished)
    await wait_until_async(lambda: lost_one(submitter, job_id), 30.0)


async def lost_one(submitter: Submitter, job_id: str) -> bool:
    await submitter.queue.reap(QUEUE)
    return (await submitter.queue.state(job_id)).lost == 1
