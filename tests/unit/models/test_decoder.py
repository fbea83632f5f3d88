"""The rotary tables and the configuration's reading, against Transformers' own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from penstock.errors import ModelNotLoadable
from penstock.models.architecture import tables
from penstock.models.backends import llama_family, suitability

PATH = Path("somewhere")
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 10_000.0},
        {"rope_type": "default", "rope_theta": 1_000_000.0},
        {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
        LLAMA3,
        {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0},
    ],
    ids=lambda rope: f"{rope['rope_type']}-{rope['rope_theta']:.0f}",
)
def test_tables_equal_transformers(rope: dict[str, Any]) -> None:
    config = LlamaConfig(**SIZES, rope_parameters=rope)
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(512)[None])
    ours = tables.rotary(llama_family.read(config).rotation, 512)

    for our, their in zip(ours, theirs, strict=True):
        assert np.abs(our - their[0].numpy()).max() < 2e-5


def test_a_window_is_read_by_layer() -> None:
    sliding = MistralConfig(**SIZES, sliding_window=32)
    assert llama_family.read(sliding).sliding_windows == (32, 32)
    assert llama_family.read(MistralConfig(**SIZES, sliding_window=None)).sliding_windows == (0, 0)
    switched_off = Qwen2Config(**SIZES, use_sliding_window=False, sliding_window=32)
    assert llama_family.read(switched_off).sliding_windows == (0, 0)
    upper = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=1)
    assert llama_family.read(upper).sliding_windows == (0, 32)


def test_heads_may_be_wider_than_their_share() -> None:
    wide = llama_family.read(Qwen3Config(**SIZES, head_dim=32))
    assert (wide.heads, wide.kv_heads, wide.head_size, wide.qk_norm) == (4, 2, 32, True)


def test_experts_are_not_of_the_family() -> None:
    with pytest.raises(ModelNotLoadable, match="layers have experts"):
        llama_family.loadable(PATH, MixtralConfig(**SIZES), "openvino")
    assert suitability.fastest(MixtralConfig(**SIZES).to_dict(), "auto") is None


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(llama_family.NotInFamily, match="'gpt2'"):
        llama_family.read(GPT2Config())
    with pytest.raises(ModelNotLoadable, match="the native backend: the activation is 'gelu'"):
        llama_family.loadable(PATH, LlamaConfig(**SIZES, hidden_act="gelu"), "native")
