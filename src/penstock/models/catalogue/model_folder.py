"""Reads a model's folder: its task, configuration and format. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from penstock.foreign import parse_json, read_file
from penstock.models.catalogue.gguf import folder as gguf_folder

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.spec import Task

CONFIG_FILE = "config.json"
MODULES_FILE = "modules.json"
"""sentence-transformers' list of a model's parts."""


def task_of(path: Path) -> Task:
    """Return a model's task, from its files.

    Models of sentence-transformers embed, and so do bare encoders as pre-training leaves them.
    """
    config = read_config(path)
    architecture = next(iter(config.get("architectures") or []), "")
    if architecture.endswith("ForSequenceClassification"):
        return "score"
    if (path / MODULES_FILE).is_file():
        return "embed"
    bare = architecture.endswith(("ForMaskedLM", "ForPreTraining", "EncoderModel")) or (
        architecture.endswith("Model") and not architecture.endswith(("HeadModel", "HeadsModel"))
    )
    generates = "AutoModelForCausalLM" in (config.get("auto_map") or {}) or is_chatglm(config)
    return "embed" if bare and not generates else "generate"


def read_config(path: Path, name: str = "config.json") -> dict[str, Any]:
    """Return the content of a JSON file in a model's folder; {} if it cannot be read."""
    try:
        config: object = parse_json(read_file(path / name), infinities=True)
    except (OSError, ValueError):
        config = {}
    stated = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
    if name != CONFIG_FILE or not gguf_folder.files(path):
        return stated
    return gguf_folder.config_of(path) | stated


def low_bit_of(path: Path, config: dict[str, Any]) -> str | None:
    """Return the format in config.json (bigdl-llm) or bigdl_config.json (optimize API), or None."""
    noted = config.get("bigdl_transformers_low_bit")
    noted = noted or read_config(path, "bigdl_config.json").get("bigdl_transformers_low_bit")
    return str(noted) if noted else None


def is_low_bit_folder(path: Path) -> bool:
    """Return whether bigdl-llm's `save_low_bit` wrote a folder."""
    return low_bit_of(path, read_config(path)) is not None


_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def stored_format(config: dict[str, Any]) -> str:
    """Return the format of the weights by the configuration; 16 bit if it has none."""
    text = config.get("text_config")
    parts = (config, cast("dict[str, Any]", text) if isinstance(text, dict) else {})
    stated = (part.get(name) for part in parts for name in ("dtype", "torch_dtype"))
    return next((_DTYPES[str(dtype)] for dtype in stated if str(dtype) in _DTYPES), "bf16")


_EAGLE3: Final = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator")


def is_eagle3(config: dict[str, Any]) -> bool:
    """Return whether a configuration is that of a head of EAGLE-3, which is no model by itself."""
    architectures: list[str] = config.get("architectures") or []
    return any(architecture in _EAGLE3 for architecture in architectures)


def states_mtp(config: dict[str, Any]) -> bool:
    """Return whether a configuration states that its checkpoint has a head for further tokens."""
    text = config.get("text_config")
    parts = (config, cast("dict[str, Any]", text) if isinstance(text, dict) else {})
    stated = [part.get(name) for part in parts for name in _MTP]
    return any(isinstance(count, int) and count > 0 for count in stated)


_MTP: Final = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


def is_chatglm(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a ChatGLM's, which is always in 4 bit."""
    architectures: list[str] = config.get("architectures") or []
    return config.get("model_type") == "chatglm" or any(
        architecture.startswith("ChatGLM") for architecture in architectures
    )
