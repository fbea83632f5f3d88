"""The lean decoder under the engine: greedy answers are Transformers' own, drawn ones the sampler's.

On the CPU by torch's operations; what is marked `gpu` by the kernels and graphs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, SequenceSlice
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.devices import Cpu
from tests.fixtures.engine import Transcript, WordTokenizer
from tests.fixtures.lean import CONTEXT, FAMILIES, MIXTURES, SHAPES, gpu, lean_of, module_of

if TYPE_CHECKING:
    from penstock.models.devices.device import Device

EOS = 7
LONGEST = 24
BLOCKS = 12
SLOTS = 4


@pytest.fixture
def device() -> Device:
    found = gpu()
    if found is None:
        pytest.skip("torch sees no GPU here")
    return found


@dataclass(frozen=True)
class Case:
    """A module, its prompts, and its own greedy answers."""

    module: Any
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]


@cache
def case_of(name: str) -> Case:
    module = module_of(name)
    rng = random.Random(name)
    shared = [rng.randrange(256) for _ in range(40)]
    shapes = [(rng.choice((0, 17, 33, 40)), rng.randint(1, 60)) for _ in range(7)]
    prompts = tuple(
        (*shared[:common], *(rng.randrange(256) for _ in range(own))) for common, own in shapes
    )
    return Case(module, prompts, tuple(alone(module, prompt) for prompt in prompts))


def alone(module: Any, prompt: tuple[int, ...]) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    config = transformers.GenerationConfig(
        max_new_tokens=LONGEST, do_sample=False, eos_token_id=EOS, pad_token_id=0
    )
    output = module.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tuple(output[0, len(prompt) :].tolist())


def serve(model: Any, requests: list[SequenceRequest], *, caching: bool = True) -> Transcript:
    """Run an engine in this thread; one more request arrives at every other step."""
    told = Transcript()
    options = EngineOptions(SLOTS, BLOCKS, prefill_chunk_tokens=19, prefix_caching=caching)
    engine = Engine(model, WordTokenizer([EOS]), options, told)
    coming = list(requests)
    step = 0
    while coming or engine.busy():
        if coming and step % 2 == 0:
            engine.submit(coming.pop(0))
        engine.turn()
        step += 1
    assert engine.load().kv_use == 0
    return told


def ask(job: int, prompt: tuple[int, ...], temperature: float = 0.0, **more: Any):
    sampling = Sampling(seed=job, temperature=temperature, max_tokens=LONGEST, **more)
    return SequenceRequest(f"{job}", prompt, sampling)


def tokens_of(told: Transcript, job: int) -> tuple[int, ...]:
    return tuple(told.tokens[f"{job}"])


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_answers_are_those_of_generate(name: str):
    case = case_of(name)
    model = lean_of(case.module)
    model.max_sequences = SLOTS
    model.allocate(BLOCKS)
    told = serve(model, [ask(job, prompt) for job, prompt in enumerate(case.prompts)])
    for job, answer in enumerate(case.answers):
        assert tokens_of(told, job) == answer


@pytest.mark.parametrize("filters", [{}, {"top_k": 9, "top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_drawn_answers_do_not_depend_on_who_chooses(filters: dict[str, Any]):
    """On the device one step ahead, or by the sampler after each step (log probabilities ask so)."""
    case = case_of("llama")
    model = lean_of(case.module)
    model.max_sequences = SLOTS
    model.allocate(BLOCKS)
    prompts = list(enumerate(case.prompts))
    ahead = serve(model, [ask(job, prompt, 0.9, **filters) for job, prompt in prompts])
    asked = [ask(job, prompt, 0.9, logprobs=0, **filters) for job, prompt in prompts]
    behind = serve(model, asked)
    for job, _ in prompts:
        assert tokens_of(ahead, job) == tokens_of(behind, job)


class Uncapturing(Cpu):
    """A device that has graphs by name, whose driver refuses them."""

    captures = True

    def capture(self, work: Any) -> Any:
        """Refuse."""
        raise RuntimeError("graphs are not supported\nby this driver")


def test_steps_that_cannot_be_captured_are_run_otherwise(caplog: pytest.LogCaptureFixture):
    case = case_of("llama")
    model = lean_of(case.module, Uncapturing())
    model.max_sequences = SLOTS
    model.allocate(BLOCKS)
    model.capture()
    assert "steps are not captured as graphs: graphs are not supported" in caplog.text
    told = serve(model, [ask(job, prompt) for job, prompt in enumerate(case.prompts)])
    for job, answer in enumerate(case.answers):
        assert tokens_of(told, job) == answer


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES | FAMILIES | MIXTURES)
def test_greedy_answers_are_those_of_generate_on_the_gpu(name: str, device: Device):
    case = case_of(name)
    model = lean_of(case.module, device)
    model.max_sequences = SLOTS
    model.allocate(BLOCKS)
    model.capture()
    told = serve(model, [ask(job, prompt) for job, prompt in enumerate(case.prompts)])
    case.module.to("cpu")
    for job, answer in enumerate(case.answers):
        assert tokens_of(told, job) == answer


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES | FAMILIES | MIXTURES)
def test_captured_steps_of_chunks_and_single_tokens_are_as_others(name: str, device: Device):
    """A step of every size, from pieces of chunks and single tokens, by its graph and without."""
    model = lean_of(module_of(name), device)
    model.max_sequences = SLOTS
    rng = random.Random(name)
    model.allocate(SLOTS * CONTEXT // BLOCK_SIZE)
    for longest in (3, 17, 60, 140):
        parts: list[list[SequenceSlice]] = [[], []]
        for key in range(SLOTS):
            table = list(range(key * CONTEXT // BLOCK_SIZE, (key + 1) * CONTEXT // BLOCK_SIZE))
            split = rng.randint(longest // 2, longest)
            ids = [rng.randrange(256) for _ in range(split + (1 if key % 2 else 40))]
            begin, end = ids[:split], ids[split:]
            parts[0].append(SequenceSlice(key, begin, 0, table, 0))
            parts[1].append(SequenceSlice(key, end, split, table, 0))
        batches = [Batch(one) for one in parts]
        wanted = [model.forward(batch).clone() for batch in batches]
        model.capture()
        found = [model.forward(batch).clone() for batch in batches]
        model.allocate(SLOTS * CONTEXT // BLOCK_SIZE)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
