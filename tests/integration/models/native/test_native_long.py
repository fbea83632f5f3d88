"""Texts of 32,768 tokens as Transformers computes them, and what one of 131,072 takes of memory.

The former runs in `make test-models`; a cut of it, and the latter, in every run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library, loading
from penstock.models.spec import ModelSpec
from tests.fixtures.models import write_model

if TYPE_CHECKING:
    from pathlib import Path

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

TOKENS = 32_768 if os.environ.get("PENSTOCK_TEST_MODELS") == "all" else 2_048
LONGEST = 131_072
CHUNK = 256
BLOCK = 16
SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": TOKENS // 8,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "yarn": ("qwen3", {"rope_parameters": YARN}),
    "windows": (
        "gemma3_text",
        {
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 32,
        },
    ),
    "latent": (
        "minicpm3",
        {
            "q_lora_rank": 64,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "num_key_value_heads": 2,
            "dim_model_base": 64,
        },
    ),
}


def written(case: str, folder: Path, context: int) -> Path:
    kind, switches = CASES[case]
    torch.manual_seed(3)
    config: Any = CONFIG_MAPPING[kind]
    sizes = {**SIZES, **switches, "max_position_embeddings": context}
    module = AutoModelForCausalLM.from_config(config(**sizes))
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape) * 0.1)
    return write_model(folder, module)


def loaded(folder: Path, context: int) -> Any:
    spec = ModelSpec("tiny", "tiny-cpu", "cpu", None, folder, "native", format="fp32")
    model: Any = loading.load(spec, lambda *_: None).model
    model.allocate(context // BLOCK + 1)
    return model


def chunks(model: Any, ids: list[int], size: int) -> torch.Tensor:
    """The last token's logits of a prompt that is read in chunks."""
    table = list(range(len(ids) // BLOCK + 1))
    logits = torch.empty(0)
    for begin in range(0, len(ids), size):
        part = SequenceSlice(0, ids[begin : begin + size], begin, table[: -(-len(ids) // BLOCK)], 0)
        logits = model.forward(Batch((part,)))
    return logits[-1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_long_text_is_computed_as_transformers_does(case: str, tmp_path: Path) -> None:
    folder = written(case, tmp_path / "m", TOKENS)
    ids = np.random.default_rng(5).integers(3, 256, TOKENS - 8).tolist()
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = module(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
    found = chunks(loaded(folder, TOKENS), ids, 512)
    # Weights and activations are in fp32 on both sides; keys and values here in fp16.
    assert ((found - expected).norm() / expected.norm()).item() < 3e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_step_at_the_end_of_131072_tokens_takes_little_memory(case: str, tmp_path: Path) -> None:
    """Beside the cache: neither a chunk of a prompt nor a token takes the context times its tokens."""
    model = loaded(written(case, tmp_path / "m", LONGEST), LONGEST)
    table = list(range(LONGEST // BLOCK))
    process = psutil.Process()
    before = process.memory_info().rss
    for begin, count in ((LONGEST - 2 * CHUNK, CHUNK), (LONGEST - CHUNK, 1)):
        part = SequenceSlice(0, [7] * count, begin, table, 0)
        logits = model.forward(Batch((part,)))
        assert torch.isfinite(logits).all()
    cache = model.kv_layout.bytes_per_block * (LONGEST // BLOCK)
    assert process.memory_info().rss - before < cache + 64 * 2**20
