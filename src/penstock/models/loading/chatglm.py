"""ChatGLM2, ChatGLM3 and GLM-4 as published, without the code that they bring.

Transformers' own GLM computes the same with other names, so the configuration and the tensors'
names are translated to it. The native kernels read the folder directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import Dense
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.reading import describe
from penstock.models.loading.libraries import transformers
from penstock.models.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from penstock.models.architecture.description import Architecture, Layer
    from penstock.models.architecture.rows import Rows

MODEL_TYPE: Final = "chatglm"


def is_original(config: dict[str, Any]) -> bool:
    """Return whether a config.json is a published ChatGLM's, from the second generation on."""
    return config.get("model_type") == MODEL_TYPE


def configuration(path: Path, config: dict[str, Any]) -> Any:
    """Return the equivalent configuration of Transformers' GLM.

    :raises ModelNotLoadable: it sets an option that no published checkpoint uses.
    """
    model = _described(path, config)
    attention = model.layers[0].attention
    turning = attention.rotation
    assert turning is not None  # noqa: S101 - every ChatGLM has one
    if model.norm.kind != "rms" or config.get("add_bias_linear"):
        raise ModelNotLoadable(f"{path}: layer norms or biases of all layers: not as published")
    made = transformers().GlmConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.layers[0].mlp.size,
        num_hidden_layers=len(model.layers),
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.kv_heads,
        head_dim=attention.head_size,
        attention_bias=bool(config.get("add_qkv_bias")),
        rms_norm_eps=model.norm.epsilon,
        max_position_embeddings=model.context_length,
        rope_parameters={
            "rope_type": turning.kind,
            "rope_theta": turning.theta,
            **turning.scaling,
            "partial_rotary_factor": turning.size / attention.head_size,
        },
        tie_word_embeddings=False,
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=config.get("pad_token_id"),
        dtype=config.get("torch_dtype") or config.get("dtype"),
    )
    made.architectures = list(config.get("architectures") or ["ChatGLMModel"])
    return made


def tensors(path: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the checkpoint's tensors under the names of Transformers' GLM.

    :raises ModelNotLoadable: a file is damaged, or lacks a tensor.
    """
    model, stored = _described(path, config), Checkpoint(path)
    named = {
        "model.embed_tokens.weight": stored.tensor(f"{model.embeddings}.weight"),
        "model.norm.weight": stored.tensor(f"{model.norm.name}.weight"),
        "lm_head.weight": stored.tensor(f"{model.head.name}.weight"),
    }
    for index, layer in enumerate(model.layers):
        own = f"model.layers.{index}"
        for name, norm in (
            ("input_layernorm", layer.attention_in),
            ("post_attention_layernorm", layer.mlp_in),
        ):
            assert norm is not None  # noqa: S101 - every ChatGLM has both
            named[f"{own}.{name}.weight"] = stored.tensor(f"{norm.name}.weight")
        joined = stored.tensor(f"{_mlp(layer).up.name}.weight")
        named[f"{own}.mlp.gate_up_proj.weight"] = joined
        for name, rows in _projections(layer).items():
            for kind in ("weight", "bias"):
                if stored.has(f"{rows.name}.{kind}"):
                    rows_ = stored.tensor(f"{rows.name}.{kind}")
                    named[f"{own}.{name}.{kind}"] = rows_[rows.first : rows.first + rows.rows]
    return named


def _projections(layer: Layer) -> dict[str, Rows]:
    attention = layer.attention
    return {
        "self_attn.q_proj": attention.query,
        "self_attn.k_proj": attention.key,
        "self_attn.v_proj": attention.value,
        "self_attn.o_proj": attention.output,
        "mlp.down_proj": _mlp(layer).down,
    }


def _mlp(layer: Layer) -> Dense:
    assert isinstance(layer.mlp, Dense)  # noqa: S101 - no ChatGLM has experts
    return layer.mlp


def _described(path: Path, config: dict[str, Any]) -> Architecture:
    try:
        return describe(config)
    except NotDescribed as reason:
        raise ModelNotLoadable(f"{path}: {reason}") from reason
