"""A GGUF file's description of its model, in the form of Transformers' configurations."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from penstock.models.catalogue.gguf.header import Header

_SCALINGS: Final = ("linear", "yarn")
_NAMES: Final = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
}
_EXPERTS: Final = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One of GGUF's architectures that is read here.

    `turned`: the rows of queries and keys lie in pairs that are rotated together, not in halves.
    `added`: what every norm's weight has too much. `always` are switches that a file does not name.
    """

    model_type: str
    architecture: str
    turned: bool = False
    added: float = 0.0
    experts: bool = False
    always: tuple[tuple[str, Any], ...] = ()


FAMILIES: Final = {
    "llama": Family("llama", "LlamaForCausalLM", turned=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": Family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        experts=True,
        always=(("norm_topk_prob", True),),
    ),
    "gemma": Family("gemma", "GemmaForCausalLM", added=1.0),
}


class UnknownFamily(ValueError):
    """A model in a GGUF file that is not read here; the message names it."""


def family_of(header: Header) -> Family:
    """:raises UnknownFamily: it is not read here."""
    name = header.metadata.get("general.architecture")
    found = FAMILIES.get(str(name))
    if found is None or (name == "llama" and "llama.expert_count" in header.metadata):
        kind = f"{name} with experts" if found else repr(name)
        raise UnknownFamily(
            f"a GGUF file of {kind}, which is not read here: {', '.join(FAMILIES)} are; "
            f"serve the checkpoint that it was made of (as safetensors)"
        )
    return found


def configuration(header: Header) -> dict[str, Any]:
    """The model's config.json.

    :raises UnknownFamily: a model that is not read here, or one that lacks a size.
    """
    family = family_of(header)
    prefix = str(header.metadata["general.architecture"])
    stated = header.metadata
    names = _NAMES | (_EXPERTS if family.experts else {})
    found: dict[str, Any] = {
        name: stated[f"{prefix}.{key}"]
        for name, key in names.items()
        if f"{prefix}.{key}" in stated
    }
    table = header.tensors.get("token_embd.weight")
    heads = found.get("num_attention_heads")
    if table is None or not isinstance(heads, int) or not found.get("hidden_size"):
        raise UnknownFamily("a GGUF file without embeddings, heads or sizes")
    found.setdefault("num_key_value_heads", heads)
    head = stated.get(f"{prefix}.attention.key_length") or stated.get(
        f"{prefix}.rope.dimension_count"
    )
    return {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        **found,
        **dict(family.always),
        "head_dim": int(head or found["hidden_size"] // heads),
        "vocab_size": table.shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "rope_parameters": _rotation(header, prefix, found.get("max_position_embeddings", 0)),
        "torch_dtype": "float16",
        "bos_token_id": stated.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": stated.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": stated.get("tokenizer.ggml.padding_token_id"),
        "quantization_config": {"quant_method": "gguf", "format": kind_of(header)},
    }


def kind_of(header: Header) -> str:
    """The type that most of a file's weights are of, as its name has it: Q4_K, Q8_0, F16, ..."""
    sizes: Counter[str] = Counter()
    for entry in header.tensors.values():
        if len(entry.shape) > 1:
            sizes[entry.kind] += entry.size
    return sizes.most_common(1)[0][0] if sizes else "F32"


def _rotation(header: Header, prefix: str, context: int) -> dict[str, Any]:
    stated = header.metadata
    theta = float(stated.get(f"{prefix}.rope.freq_base", 10_000.0))
    own = _factors(header)
    if own:  # Llama 3's: each frequency is divided by a factor of its own, at every length
        return {
            "rope_type": "longrope",
            "rope_theta": theta,
            "short_factor": own,
            "long_factor": own,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": context,
        }
    kind = stated.get(f"{prefix}.rope.scaling.type")
    factor = stated.get(f"{prefix}.rope.scaling.factor")
    if kind not in _SCALINGS or not factor:
        return {"rope_type": "default", "rope_theta": theta}
    found: dict[str, Any] = {"rope_type": kind, "rope_theta": theta, "factor": float(factor)}
    original = stated.get(f"{prefix}.rope.scaling.original_context_length")
    if original:
        found["original_max_position_embeddings"] = int(original)
    return found


def _factors(header: Header) -> list[float]:
    entry = header.tensors.get("rope_freqs.weight")
    if entry is None or entry.kind != "F32":
        return []
    with header.path.open("rb") as file:
        file.seek(entry.start)
        return list(struct.unpack(f"<{entry.size // 4}f", file.read(entry.size)))
