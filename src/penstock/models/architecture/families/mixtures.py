"""Mixtures of experts over the attention of Llama and its relatives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import ClampedGate, Experts, HeadNorms, Routing
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import experts, llama, parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention
    from penstock.models.architecture.facts import Facts


def qwen(facts: Facts, plain: Architecture) -> Architecture:
    """Experts in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    dense = {int(index) for index in facts.raw("mlp_only_layers") or ()}
    step = facts.size("decoder_sparse_step", 1)
    count = experts.count(facts, "num_experts", "num_local_experts")
    shared = facts.whole("shared_expert_intermediate_size", 0)
    if any(not 0 <= index < len(plain.layers) for index in dense):
        raise NotDescribed("mlp_only_layers names a layer that does not exist")

    def mlp_of(index: int, name: str) -> Experts | None:
        if index in dense or (index + 1) % step:
            return None
        return Experts(
            size=facts.size("moe_intermediate_size"),
            activation=facts.activation("hidden_act"),
            routing=Routing(
                f"{name}.mlp.gate",
                count,
                facts.size("num_experts_per_tok"),
                normalise=facts.flag("norm_topk_prob"),
            ),
            matrices=experts.matrices(f"{name}.mlp.experts"),
            shared=experts.shared(facts, f"{name}.mlp.shared_expert", shared) if shared else None,
            shared_gate=f"{name}.mlp.shared_expert_gate" if shared else None,
        )

    return experts.with_mlps(plain, mlp_of)


def _qwen2(facts: Facts) -> Architecture:
    if facts.flag("use_sliding_window") and not facts.has("layer_types"):
        raise NotDescribed("sliding windows without layer_types")
    return qwen(facts, llama.llama(facts))


def _qwen3(facts: Facts) -> Architecture:
    return qwen(facts, llama.with_head_norms(facts))


def _mixtral(facts: Facts) -> Architecture:
    def mlp_of(_: int, name: str) -> Experts:
        matrices = experts.matrices(f"{name}.block_sparse_moe.experts", "w1", "w3", "w2")
        return Experts(
            size=facts.size("intermediate_size"),
            activation=facts.activation("hidden_act"),
            routing=Routing(
                f"{name}.block_sparse_moe.gate",
                experts.count(facts, "num_experts", "num_local_experts"),
                facts.size("num_experts_per_tok"),
            ),
            matrices=matrices,
        )

    return experts.with_mlps(llama.llama(facts), mlp_of)


def _minimax(facts: Facts) -> Architecture:
    """MiniMax M2: Mixtral's names, sigmoids with a correction, a part of each head rotated."""
    size = parts.sizes(facts)
    turned = facts.whole("rotary_dim", size.head) / size.head
    turning = parts.rotation(facts, size, partial=turned)
    plain = parts.with_attention(
        _normed_together(facts), lambda _, attention: replace(attention, rotation=turning)
    )

    def mlp_of(_: int, name: str) -> Experts:
        below = f"{name}.block_sparse_moe"
        return Experts(
            size=facts.size("intermediate_size"),
            activation=facts.activation("hidden_act"),
            routing=Routing(
                f"{below}.gate",
                experts.count(facts, "num_experts", "num_local_experts"),
                facts.size("num_experts_per_tok"),
                scoring="sigmoid",
                correction=f"{below}.e_score_correction_bias",
            ),
            matrices=experts.matrices(f"{below}.experts", "w1", "w3", "w2"),
        )

    return experts.with_mlps(plain, mlp_of)


def _normed_together(facts: Facts) -> Architecture:
    """Return Llama with queries and keys normed over all heads."""

    def together(_: int, attention: Attention) -> Attention:
        return replace(attention, head_norms=replace(_norms(attention.head_norms), together=True))

    return parts.with_attention(llama.with_head_norms(facts), together)


def _olmoe(facts: Facts) -> Architecture:
    if facts.has("clip_qkv"):
        raise NotDescribed("clip_qkv: queries, keys and values are clipped")

    def mlp_of(_: int, name: str) -> Experts:
        return Experts(
            size=facts.size("intermediate_size"),
            activation=facts.activation("hidden_act"),
            routing=Routing(
                f"{name}.mlp.gate",
                experts.count(facts, "num_experts", "num_local_experts"),
                facts.size("num_experts_per_tok"),
                normalise=facts.flag("norm_topk_prob"),
            ),
            matrices=experts.matrices(f"{name}.mlp.experts"),
        )

    return experts.with_mlps(_normed_together(facts), mlp_of)


def _norms(norms: HeadNorms | None) -> HeadNorms:
    assert norms is not None  # noqa: S101 - `with_head_norms` made them
    return norms


def _gpt_oss(facts: Facts) -> Architecture:
    """Sinks, windows in every second layer, clamped gates; all experts' matrices in one tensor."""
    plain = llama.llama(facts)
    window = facts.whole("sliding_window", 0)
    stated = facts.listed("layer_types", len(plain.layers))
    slides = (
        [index % 2 == 0 for index in range(len(plain.layers))]
        if stated is None
        else [kind == parts.SLIDING for kind in parts.layer_types(facts, len(plain.layers))]
    )

    def sinking(index: int, attention: Attention) -> Attention:
        sinks = f"{parts.layer_name(index)}.self_attn.sinks"
        return replace(attention, window=window if slides[index] else 0, sinks=sinks)

    def mlp_of(_: int, name: str) -> Experts:
        gate = ClampedGate(facts.real("swiglu_alpha", 1.702), facts.real("swiglu_limit", 7.0))
        return Experts(
            size=facts.size("intermediate_size"),
            activation=gate,
            routing=Routing(
                f"{name}.mlp.router",
                experts.count(facts, "num_experts", "num_local_experts"),
                facts.size("num_experts_per_tok"),
                scoring="softmax_of_chosen",
            ),
            matrices=replace(
                experts.matrices(f"{name}.mlp.experts"), transposed=True, interleaved=True
            ),
        )

    return experts.with_mlps(parts.with_attention(plain, sinking), mlp_of)


_QWEN: Final = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
}

FAMILIES: Final = (
    Family(
        ("qwen3_moe",),
        _qwen3,
        {
            **_QWEN,
            "intermediate_size": 6144,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
            "num_local_experts": 128,
        },
    ),
    Family(
        ("qwen2_moe",),
        _qwen2,
        {
            **_QWEN,
            "intermediate_size": 5632,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts_per_tok": 4,
            "num_local_experts": 60,
        },
    ),
    Family(
        ("mixtral",),
        _mixtral,
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 14_336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
        },
    ),
    Family(
        ("olmoe",),
        _olmoe,
        {
            "vocab_size": 50_304,
            "hidden_size": 2048,
            "intermediate_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "num_experts_per_tok": 8,
            "num_local_experts": 64,
        },
    ),
    Family(
        ("minimax_m2",),
        _minimax,
        {
            "vocab_size": 200_064,
            "hidden_size": 3072,
            "intermediate_size": 1536,
            "num_hidden_layers": 62,
            "num_attention_heads": 48,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 196_608,
            "num_local_experts": 256,
            "num_experts_per_tok": 8,
            "rope_theta": 5_000_000.0,
        },
    ),
    Family(
        ("gpt_oss",),
        _gpt_oss,
        {
            "vocab_size": 201_088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 36,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "rope_theta": 150_000.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150_000.0,
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
    ),
)
