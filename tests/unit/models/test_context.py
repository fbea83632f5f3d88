"""How long a model's sequences may be, by its configuration."""

from __future__ import annotations

import pytest

from penstock.models.catalogue.context import positions


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        # vicuna-7b-v1.5-16k
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "factor": 4}}, 256),
        # Qwen2.5 as its page says to configure it: stated and original are the same
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        # stated with the factor already, as DeepSeek V3, Llama 3.1 and Phi-3 do
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {
                    "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                },
            },
            163840,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
            },
            131072,
        ),
        # Gemma 3: a rule for each kind of layer
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            131072,
        ),
        ({"text_config": {"max_position_embeddings": 2048}}, 2048),
    ],
)  # fmt: skip
def test_the_longest_sequence(config, longest):
    assert positions(config) == longest
