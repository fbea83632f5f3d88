"""Which backends that compute a decoder themselves can have a model. Imports no torch.

Told from `config.json`, from the CPU, and from what is installed.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ACTIVATIONS = ("silu", "swish")
ROTATIONS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

_CPU_INFO: Final = Path("/proc/cpuinfo")
_WHOLE_GROUPS: Final = 64
"""Weights of a row that share a scale in sym_int4."""


@cache
def is_installed() -> bool:
    """Whether OpenVINO's runtime is in this environment."""
    return importlib.util.find_spec("openvino") is not None


@cache
def native_isa() -> library.Isa | None:
    """The instructions that the native kernels would compute with; None where they cannot.

    :raises ModelNotLoadable: the library is not there; the message says why.
    """
    return library.best_isa()


def native_wins() -> bool:
    """Whether the native kernels are there and measured to be the fastest on such a CPU.

    That is, those with integer dot products and without AMX, which OpenVINO uses and they do not.
    """
    try:
        fast = native_isa() in (library.Isa.AVX_VNNI, library.Isa.AVX512_VNNI)
    except ModelNotLoadable:
        return False
    return fast and not _has_amx()


@cache
def _has_amx() -> bool:
    try:
        return "amx_int8" in _CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False


def fastest(
    config: dict[str, Any], wish: Literal["auto", "openvino", "native"], *, kv_cache: str
) -> Literal["openvino", "native"] | None:
    """What a model in sym_int4 is computed with on a CPU; None is bigdl-llm itself.

    `kv_cache` is the type that is wanted for keys and values; `u8` only OpenVINO has.
    """
    if not fits(config):
        return None
    native = wish != "openvino" and kv_cache != "u8" and _has_whole_groups(config)
    if native and (wish == "native" or native_wins()):
        return "native"
    return "openvino" if is_installed() else None


def fits(config: dict[str, Any]) -> bool:
    """Whether these backends know all that a model's configuration asks for."""
    return (
        config.get("model_type") in MODEL_TYPES
        and config.get("hidden_act", "silu") in ACTIVATIONS
        and float(config.get("partial_rotary_factor") or 1) == 1
        and _rotation(config) in ROTATIONS
        and "quantization_config" not in config
    )


def _has_whole_groups(config: dict[str, Any]) -> bool:
    """Whether every matrix can be held in 4 bit; a size that is not stated is a default, and is."""
    heads, head = (int(config.get(name) or 0) for name in ("num_attention_heads", "head_dim"))
    sizes = (int(config.get(name) or 0) for name in ("hidden_size", "intermediate_size"))
    return not any(size % _WHOLE_GROUPS for size in (*sizes, heads * head))


def _rotation(config: dict[str, Any]) -> str:
    """The rule of rotary scaling, in today's key or in those of older checkpoints."""
    for key in ("rope_parameters", "rope_scaling"):
        rules: dict[str, Any] = config.get(key) or {}
        for name in ("rope_type", "type"):
            if name in rules:
                return str(rules[name])
    return "default"
