"""Random models of known shapes for a GPU, and what a token of one stream reads of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
import transformers


@dataclass(frozen=True)
class Shape:
    """A model of Transformers: its configuration's class, and its values.

    `chosen` is the share of the experts that a token chooses. `small` values make it quick.
    """

    family: str
    values: dict[str, Any]
    small: dict[str, Any] = field(default_factory=dict[str, Any])
    chosen: float = 1.0


_QUICK: Final = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4}
SHAPES: Final = {
    "llama-7b": Shape(
        "Llama",
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 33_024,
        },
        _QUICK | {"num_attention_heads": 8, "num_key_value_heads": 8},
    ),
    "qwen3-30b-a3b": Shape(
        "Qwen3Moe",
        {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_local_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "max_position_embeddings": 33_024,
        },
        {"num_hidden_layers": 4},
        chosen=8 / 128,
    ),
    "gemma3-4b": Shape(
        "Gemma3Text",
        {
            "vocab_size": 262_208,
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 1024,
            "max_position_embeddings": 33_024,
        },
        {"num_hidden_layers": 4},
    ),
}


def configuration(shape: Shape, *, layers: int | None = None, quick: bool = False) -> Any:
    """Return the shape's configuration, cut to some layers if that is asked for."""
    values = shape.values | (shape.small if quick else {})
    if layers is not None:
        values = values | {"num_hidden_layers": layers}
    made: Any = getattr(transformers, f"{shape.family}Config")
    return made(**values, bos_token_id=None, eos_token_id=None, pad_token_id=None)


def make_module(config: Any, device: Any) -> Any:
    """A random model in bf16 on the device."""
    device.seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device.torch_device:
        module: Any = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    return module.to(torch.bfloat16).eval()


def bytes_a_token(module: Any, shape: Shape) -> float:
    """What a decoded token of one stream reads: every weight, of experts those that it chooses."""
    read = 0.0
    for name, weight in module.named_parameters():
        share = shape.chosen if ".experts." in name else 1.0
        read += share * weight.nbytes
    tied = module.lm_head.weight is module.model.embed_tokens.weight
    return read - (0 if tied else module.model.embed_tokens.weight.nbytes)
