"""The oracle: under arrivals, departures, preemptions, chunks and shared prefixes, each greedy
answer of the engine is `model.generate` of its prompt alone, token by token, in fp32; and so it is
where guessed tokens, right and wrong, are tried along the way.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.models.backends.transformers.model import assemble
from penstock.models.spec import ModelSpec
from tests.fixtures.engine import Transcript, WordTokenizer
from tests.fixtures.models import randomise
from tests.fixtures.speculation import ForcedDrafts

VOCAB = 256
EOS = 7
LONGEST = 20
BLOCKS = 7  # of 16 tokens: one long sequence fits, or three that must not grow
TOGETHER = 3  # such three come first, so that one is preempted

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# Each name is that of a `<name>Config` of Transformers.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 24},
    "Qwen2": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 16},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "Gemma2": {**GROUPED, "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16},
    "Phi3": GROUPED,
    "GPTNeoX": {},
    "GPT2": {"n_positions": 128},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "StableLm": GROUPED,
    "Mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {**GROUPED, **EXPERTS, "head_dim": 16},
    "Olmoe": {**GROUPED, **EXPERTS},
    "Granite": {**GROUPED, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    "Starcoder2": GROUPED,
    "Cohere": GROUPED,
}
GUESSED = ("Llama", "Mistral", "Qwen3", "Gemma2", "GPT2", "Mixtral")
"""Of each kind of attention one, where guessed tokens are tried as well."""


@dataclass(frozen=True)
class Case:
    """A model in our hands, and what it says by itself."""

    model: Any
    batching: str
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]


@cache
def case_of(name: str) -> Case:
    torch.manual_seed(0)
    # None ids go in by attribute: some configurations take no None in their constructors.
    config = getattr(transformers, f"{name}Config")(**COMMON | ARCHITECTURES[name])
    module = randomise(transformers.AutoModelForCausalLM.from_config(config), std=0.25).float()
    rng = random.Random(name)
    shared = [rng.randrange(VOCAB) for _ in range(40)]
    shapes = [(0, 30)] * TOGETHER
    shapes += [(rng.choice((0, 17, 33, 40)), rng.randint(1, 30)) for _ in range(8)]
    prompts = tuple(
        tuple(shared[:common]) + tuple(rng.randrange(VOCAB) for _ in range(own))
        for common, own in shapes
    )
    answers = tuple(alone(module, prompt) for prompt in prompts)
    spec = ModelSpec(name, f"{name}-cpu", "cpu", None, Path(name), "transformers")
    assembled = assemble(
        spec,
        module,
        format_name="fp32",
        parameters=0,
        tolerance=1e-3,
        progress=lambda share, what: None,
    )
    return Case(assembled.model, assembled.batching, prompts, answers)


def alone(module: Any, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """What Transformers itself answers: greedy, up to and with the first EOS."""
    ids = torch.tensor([prompt])
    output = module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=transformers.GenerationConfig(
            max_new_tokens=LONGEST, do_sample=False, eos_token_id=EOS, pad_token_id=0
        ),
    )
    return tuple(output[0, len(prompt) :].tolist())


def ask(job: int, prompt: tuple[int, ...], **kwargs: Any) -> SequenceRequest:
    return SequenceRequest(
        f"{job}", prompt, Sampling(seed=0, temperature=0.0, max_tokens=LONGEST), **kwargs
    )


@pytest.mark.parametrize(
    ("name", "caching", "guessing"),
    [
        *((name, caching, False) for name in ARCHITECTURES for caching in (True, False)),
        *((name, True, True) for name in GUESSED),
    ],
)
def test_every_answer_is_that_of_generate(name: str, caching: bool, guessing: bool):
    case = case_of(name)
    case.model.allocate(BLOCKS)
    told = Transcript()
    options = EngineOptions(4, BLOCKS, prefill_chunk_tokens=13, prefix_caching=caching)
    rng = random.Random(f"{name} {caching}")
    answers = {f"{job}": answer for job, answer in enumerate(case.answers)}
    drafts = ForcedDrafts(answers, rng, vocab_size=VOCAB) if guessing else None
    engine = Engine(case.model, WordTokenizer([EOS]), options, told, drafter=drafts)
    jobs = range(len(case.prompts))
    arrivals = {job: 0 if job < TOGETHER else rng.randrange(15) for job in jobs}
    aborts = {f"{job}": arrivals[job] + rng.randrange(25) for job in rng.sample(jobs[TOGETHER:], 2)}
    # One that another worker had begun goes on after its journal's tokens.
    resumed = rng.choice([job for job in jobs if f"{job}" not in aborts])
    had = case.answers[resumed][: len(case.answers[resumed]) // 2]
    told.start[f"{resumed}"] = len(had)
    turn, more = 0, True
    while more or turn < 60:
        for job in (job for job, at in arrivals.items() if at == turn):
            had_tokens = had if job == resumed else ()
            engine.submit(ask(job, case.prompts[job], generated_token_ids=had_tokens))
        engine.abort(job for job, at in aborts.items() if at == turn)
        more = engine.turn()
        turn += 1
        assert turn < 1_000
    for job, answer in enumerate(case.answers):
        got = tuple(told.tokens.get(f"{job}", ()))
        if f"{job}" in told.ends:
            assert got == (answer[len(had) :] if job == resumed else answer)
        else:
            assert f"{job}" in aborts
            assert got == answer[: len(got)]
    load = engine.load()
    assert load.preempted_total > 0
    if guessing:
        assert 0 < load.accepted_tokens_total < load.drafted_tokens_total
    assert load.kv_use == 0
    cached = sum(told.finished(job).usage.cached_tokens for job in told.ends)
    assert (cached > 0) is caching


def test_the_table_is_wide_enough():
    """What this oracle vouches for: a dozen architectures and more in continuous batching."""
    continuous = [name for name in ARCHITECTURES if case_of(name).batching == "continuous"]
    assert len(continuous) >= 12


def test_threads_that_submit_at_once_get_their_own_answers():
    case = case_of("Llama")
    case.model.allocate(BLOCKS)
    told = Transcript()
    engine = Engine(case.model, WordTokenizer([EOS]), EngineOptions(4, BLOCKS), told)
    engine.start()
    try:
        threads = [
            threading.Thread(target=engine.submit, args=(ask(job, prompt),))
            for job, prompt in enumerate(case.prompts)
        ]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + 60
        while len(told.ends) < len(case.prompts):
            assert engine.failure is None
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
    finally:
        engine.stop(10)
    for job, answer in enumerate(case.answers):
        assert tuple(told.tokens[f"{job}"]) == answer
