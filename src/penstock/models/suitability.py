"""Which models the `openvino` backend builds itself, told from `config.json`. Imports no torch."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ACTIVATIONS = ("silu", "swish")
ROTATIONS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


@cache
def is_installed() -> bool:
    """Whether OpenVINO's runtime is in this environment."""
    return importlib.util.find_spec("openvino") is not None


def fits(config: dict[str, Any]) -> bool:
    """Whether the graph builder knows all that a model's configuration asks for."""
    return (
        config.get("model_type") in MODEL_TYPES
        and config.get("hidden_act", "silu") in ACTIVATIONS
        and float(config.get("partial_rotary_factor") or 1) == 1
        and _rotation(config) in ROTATIONS
        and "quantization_config" not in config
    )


def _rotation(config: dict[str, Any]) -> str:
    """The rule of rotary scaling, in today's key or in those of older checkpoints."""
    for key in ("rope_parameters", "rope_scaling"):
        rules: dict[str, Any] = config.get(key) or {}
        for name in ("rope_type", "type"):
            if name in rules:
                return str(rules[name])
    return "default"
