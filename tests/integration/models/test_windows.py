"""Layers with a window hold only its blocks: the same text as with all of them, in less memory."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.model import WindowedModel
from penstock.engine.sequence import SequenceRequest
from penstock.errors import ModelNotLoadable
from penstock.models import loader
from penstock.models.backends.native import library
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures.engine import Transcript
from tests.fixtures.models import write_model

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.engine.options import EngineOptions
    from penstock.models.loader import LoadedModel

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

WINDOW = 40
CONTEXT = 1024
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "sliding_window": WINDOW,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXED = {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
SHARED = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 64,
    "vocab_size_per_layer_input": 512,
}
EXPERTS = {**MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}
CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "native, some": ("gemma3_text", MIXED, "native", "int8"),
    "native, all": ("mistral", {}, "native", "int8"),
    "native, shared keys": ("gemma4_text", SHARED, "native", "int8"),
    "native, sinks": ("gpt_oss", EXPERTS, "native", "int8"),
    "paged, some": ("gemma3_text", MIXED, "transformers", "fp32"),
    "paged, all": ("starcoder2", {}, "transformers", "fp32"),
    "lean, all": ("mistral", {}, "transformers", "fp32"),
    "lean, some": ("ministral", MIXED, "transformers", "fp32"),
    "openvino, all": ("mistral", {}, "openvino", "fp32"),
    "openvino, some": ("ministral", MIXED, "openvino", "fp32"),
}
"""A model's type, its switches, the backend and the format."""


def loaded(folder: Path, case: str, slots: int = 4, kv_cache_bytes: int = 2**23) -> LoadedModel:
    _, _, backend, form = CASES[case]
    (folder / "models.toml").write_text(
        f'[models.tiny]\npath = "tiny"\nbackend = "{backend}"\nformat = "{form}"\n'
    )
    settings = Settings(
        models_file=folder / "models.toml", threads=1, kv_cache_bytes=kv_cache_bytes, spare_slots=0
    )
    spec = resolve("tiny-cpu", settings)
    return loader.load(spec, settings, slots=slots, progress=lambda *_: None)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind, switches, _, _ = CASES[request.param]
    torch.manual_seed(3)
    config: Any = CONFIG_MAPPING[kind](**{**SIZES, **switches})
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape) * 0.1)
    folder = tmp_path_factory.mktemp("windows")
    write_model(folder / "tiny", module)
    return folder, request.param


def answers(
    model: LoadedModel, options: EngineOptions, prompts: list[list[int]]
) -> tuple[dict[str, list[int]], Engine]:
    """What is answered while one prompt comes with each step."""
    transcript = Transcript()
    engine = Engine(model.model, model.tokenizer, options, transcript)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=24, ignore_eos=True)
    waiting: list[Any] = [
        SequenceRequest(f"{job}", prompt, sampling) for job, prompt in enumerate(prompts)
    ]
    more = True
    while more or waiting:
        more = engine._turn([waiting.pop(0)] if waiting else [])
    return transcript.tokens, engine


def prompts() -> list[list[int]]:
    """Shorter and longer than the window; some begin alike, some are the same."""
    rng = random.Random(3)
    shared = [rng.randrange(3, 500) for _ in range(200)]
    own = [[rng.randrange(3, 500) for _ in range(length)] for length in (5, 300, 31, 150)]
    return [*own, [*shared, *own[0]], [*shared, *own[2]], own[1], [*shared[:90], *own[0]]]


@pytest.mark.filterwarnings("ignore")
def test_the_same_text_as_with_all_blocks(case: Any) -> None:
    folder, name = case
    model = loaded(folder, name)
    assert model.card.running == {"transformers": "lean" if "lean" in name else "paged"}.get(
        CASES[name][2], CASES[name][2]
    )
    options = replace(
        model.options, prefill_chunk_tokens=64, target_step_ms=None, speculation_tokens=0
    )
    assert options.num_window_blocks > 0
    found, engine = answers(model, options, prompts())
    assert engine.load().cached_tokens_total > 0
    assert engine.load().kv_use == pytest.approx(0.0)
    # Few blocks: sequences are preempted, and what was cached is overwritten.
    size = model.model.kv_layout.block_size
    few = replace(options, num_window_blocks=9 * 16 // size, prefill_chunk_tokens=24)
    again, engine = answers(model, few, prompts())
    assert engine.load().preempted_total > 0
    every = loaded(folder, name)
    if isinstance(every.model, WindowedModel) and every.model.kv_layout.has_full_layers:
        every.model.allocate_windows(options.num_blocks)
    every.model.allocate(options.num_blocks)
    alone = replace(options, num_window_blocks=0, prefix_caching=False)
    expected, _ = answers(every, alone, prompts())
    assert found == expected
    assert again == expected


@pytest.mark.filterwarnings("ignore")
def test_windows_take_memory_for_their_tokens_only(case: Any) -> None:
    """With what 600 tokens take in all layers, a slot has its whole context."""
    folder, name = case
    layout = loaded(folder, name).model.kv_layout
    budget = 600 * layout.bytes_per_block // layout.block_size
    model = loaded(folder, name, slots=1, kv_cache_bytes=budget)
    full_bytes = layout.bytes_per_block - layout.window_bytes
    options = model.options
    taken = options.num_blocks * full_bytes + options.num_window_blocks * layout.window_bytes
    assert taken <= budget
    assert model.card.kv_cache_tokens >= 600
    mostly_slides = layout.window_bytes >= 0.7 * layout.bytes_per_block
    coarse = layout.block_size > 16  # as OpenVINO's: a window then takes more of the budget
    assert model.card.kv_cache_tokens >= CONTEXT or coarse or not mostly_slides
    plain = replace(options, target_step_ms=None, speculation_tokens=0)
    length = model.card.kv_cache_tokens - 24
    text, _ = answers(model, plain, [[3 + n % 400 for n in range(length)]])
    assert len(text["0"]) == 24


@pytest.mark.parametrize("name", ["native, some", "lean, some"])
def test_a_block_is_stored_with_the_window_layers_part(tmp_path: Path, name: str) -> None:
    kind, switches, _, _ = CASES[name]
    module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SIZES, **switches}))
    write_model(tmp_path / "tiny", module)
    model: Any = loaded(tmp_path, name).model
    layout = model.kv_layout
    full_bytes = layout.bytes_per_block - layout.window_bytes
    assert (len(model.read_block(3)), len(model.read_window_block(3))) == (
        full_bytes,
        layout.window_bytes,
    )
    content = bytes(range(256)) * (layout.bytes_per_block // 256)
    assert model.write_block(5, content[:full_bytes])
    assert model.write_window_block(2, content[full_bytes:])
    assert model.read_block(5) + model.read_window_block(2) == content
    assert not model.write_block(5, content)
    assert not model.write_window_block(2, content)
