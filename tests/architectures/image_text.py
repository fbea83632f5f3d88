"""Tiny random checkpoints that take images, in the kinds that people publish."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.architectures import build
from tests.architectures.sizes import COMMON, VOCAB

if TYPE_CHECKING:
    from pathlib import Path

VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "num_channels": 3, "depth": 2, "num_heads": 2,
    "embed_dim": 64, "out_hidden_size": 128, "window_size": 28, "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0], "spatial_merge_size": 2, "projection_dim": 64,
    "num_position_embeddings": 16, "num_global_layers": 1, "vision_output_dim": 128,
    "attention_heads": 2, "intermediate_layers_indices": [0], "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]], "projector_input_dim": 64, "projector_output_dim": 64,
    "mm_tokens_per_image": 4, "position_embedding_size": 4, "head_dim": 32,
}  # fmt: skip
MARKS: dict[str, Any] = {
    "image_token_index": 5, "image_token_id": 5, "video_token_id": 6, "video_token_index": 6,
    "vision_start_token_id": 7, "vision_end_token_id": 8, "boi_token_id": 7, "eoi_token_id": 8,
    "boi_token_index": 7, "eoi_token_index": 8, "projection_dim": 128, "vocab_size": VOCAB,
    "hidden_size": 128,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 4, 4]}
MULTIMODAL_ROPE = ("glm4v", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe")

KINDS = (
    "aya_vision", "cohere2_vision", "gemma3", "gemma3n", "gemma4", "glm4v", "idefics2", "idefics3",
    "internvl", "lfm2_vl", "llama4", "llava", "llava_next", "llava_onevision", "minicpmv4_6",
    "minicpmv4_7", "mistral3", "mllama", "ovis2", "paligemma", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe",
    "qwen3_vl", "qwen3_vl_moe", "smolvlm",
)  # fmt: skip


def _part(kind: type, sizes: dict[str, Any]) -> Any:
    mapped = getattr(kind, "attribute_map", {})
    known = build.declared(kind)
    return kind(**{k: v for k, v in sizes.items() if k in known and k not in mapped})


def part_of(model_type: str) -> Any:
    """A tiny configuration of a vision tower."""
    return _part(CONFIG_MAPPING[model_type], VISION)


def _text(model_type: str, default: Any) -> Any:
    if default.model_type in CONFIG_MAPPING:
        text = build.config_of(default.model_type)
    else:
        text = _part(type(default), COMMON)
    stated = getattr(default, "rope_parameters", None)
    if isinstance(stated, dict) and "mrope_section" in stated:
        text.rope_parameters = {**stated, "mrope_section": [8, 4, 4]}
    elif model_type in MULTIMODAL_ROPE:
        text.rope_parameters = MROPE
    return text


def config_of(model_type: str) -> Any:
    """A tiny configuration of a checkpoint that takes images."""
    kind = CONFIG_MAPPING[model_type]
    default = kind()
    parts: dict[str, Any] = {}
    for name in getattr(kind, "sub_configs", {}):
        part = getattr(default, name, None)
        if part is None:
            continue
        if name == "text_config":
            parts[name] = _text(model_type, part)
        elif name in ("vision_config", "audio_config"):
            more = COMMON if name == "audio_config" else {}
            parts[name] = _part(type(part), VISION | more)
    marks = {name: value for name, value in MARKS.items() if name in build.declared(kind)}
    if model_type == "gemma4":  # which has no input by layer for them: the prompts have none
        marks |= dict.fromkeys(("image_token_id", "video_token_id", "audio_token_id"), 1)
    # As dictionaries: some classes take nothing else.
    config = kind(**{name: part.to_dict() for name, part in parts.items()}, **marks)
    if model_type == "mllama":
        config.text_config.cross_attention_layers = [1]
    return config


def write(model_type: str, folder: Path) -> Path:
    """Write a tiny checkpoint with a tokenizer; returns `folder`.

    :raises TooLarge: some size of the model type is not known here.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = config_of(model_type)
        kind = transformers.AutoModelForImageTextToText
        with torch.device("meta"):
            build.check_size(kind.from_config(config))
        return build.save(kind.from_config(config), folder)
