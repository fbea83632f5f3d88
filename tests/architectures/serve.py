"""A checkpoint as a worker would serve it, beside what `generate` says."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import transformers

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.backends import bigdl
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.architectures.sizes import VOCAB
from tests.fixtures.engine import Transcript, WordTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.contract.worker import ModelCard

ANSWER = 8
LENGTHS = (9, 37, 21, 50)
SHARED = 18
ROUNDING = 0.05
"""Logits of two tokens this near, in standard deviations of their row, are a coin toss."""


@dataclass(frozen=True)
class Judgement:
    """What came of a checkpoint: how it was run, and how many answers are `generate`'s."""

    card: ModelCard
    equal: int
    answers: int
    gap: float


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    """Of these lengths; two more begin alike."""
    rng = random.Random(5)
    shared = [rng.randrange(3, VOCAB) for _ in range(SHARED)]
    made = [[rng.randrange(3, VOCAB) for _ in range(length)] for length in lengths]
    return [*made, shared + made[0], shared + made[-1]]


def settings_for(folder: Path) -> Settings:
    """Settings of a worker whose models directory holds `folder`."""
    return Settings(
        models_dir=folder.parent, models_file=folder.parent / "models.toml", threads=1,
        kv_cache_bytes=2**23,
    )  # fmt: skip


def judge(
    folder: Path,
    *,
    low_bit: bool,
    reference: Path | None = None,
    lengths: tuple[int, ...] = LENGTHS,
) -> Judgement:
    """Load a folder as a worker does, serve it under arrivals, compare with `generate`.

    `reference` is the folder that `generate` is asked of, if not the same.

    :raises ModelNotLoadable: the product refuses it.
    """
    settings = settings_for(folder)
    queue = f"{'bigdl-' if low_bit else ''}{folder.name}-cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = resolve(queue, settings)
        loaded = loader.load(spec, settings, slots=4, progress=lambda *_: None)
        module = _reference(reference or folder, low_bit=low_bit)
        served = _served(loaded, prompts(lengths))
        equal, gap = 0, 0.0
        for prompt, answer in zip(prompts(lengths), served, strict=True):
            wanted, rows = _generated(module, prompt)
            part = next((i for i in range(ANSWER) if answer[i] != wanted[i]), None)
            if part is None:
                equal += 1
            else:
                row = rows[part]
                apart = (row[wanted[part]] - row[answer[part]]).abs() / row.std()
                gap = max(gap, apart.item())
    return Judgement(loaded.card, equal, len(served), gap)


def _reference(folder: Path, *, low_bit: bool) -> Any:
    """What `generate` is asked of: the folder's own module, whole if it takes images too."""
    whole = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForCausalLM
    if type(whole) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = transformers.AutoModelForImageTextToText
    module = kind.from_pretrained(folder, dtype=torch.float32).eval()
    if low_bit:
        bigdl.Quantiser(bigdl.import_library(), "sym_int4").convert(module, lambda *_: None)
    return module


def _served(loaded: loader.LoadedModel, asked: list[list[int]]) -> list[tuple[int, ...]]:
    told = Transcript()
    options = replace(
        loaded.options, prefill_chunk_tokens=13, target_step_ms=None, speculation_tokens=0
    )
    engine = Engine(loaded.model, WordTokenizer(), options, told)
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=ANSWER)
    waiting: list[Any] = [
        SequenceRequest(f"{job}", prompt, sampling) for job, prompt in enumerate(asked)
    ]
    count, more = len(waiting), True
    while more or waiting:  # one arrives with each step
        more = engine._turn([waiting.pop(0)] if waiting else [])
    return [tuple(told.tokens[f"{job}"]) for job in range(count)]


@torch.inference_mode()
def _generated(module: Any, prompt: list[int]) -> tuple[list[int], list[torch.Tensor]]:
    """Transformers' answer and the logits behind each of its tokens."""
    module.generation_config.eos_token_id = None  # every answer has all its tokens
    ids = torch.tensor([prompt])
    output = module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=transformers.GenerationConfig(
            max_new_tokens=ANSWER, do_sample=False, pad_token_id=0, output_logits=True,
            return_dict_in_generate=True,
        ),
    )  # fmt: skip
    rows = [row[0].float() for row in output.logits]
    return output.sequences[0, len(prompt) :].tolist(), rows
