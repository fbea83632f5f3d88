"""Mixtures of experts beside an MLP that all tokens share: GLM, Granite, ERNIE."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import Experts, Routing
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import experts, llama, parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Dense
    from penstock.models.architecture.facts import Facts

_ADDED: Final = 1e-20
"""Added by GLM and DeepSeek to a sum before they divide by it."""


def _dots(facts: Facts) -> Architecture:
    """dots.1: GLM's experts over Qwen3's attention, whose last layers may slide."""
    count = facts.size("num_hidden_layers")
    if not facts.has("layer_types") and facts.whole("max_window_layers", count) < count:
        raise NotDescribed("sliding windows without layer_types")
    windows = parts.windows(facts, count) if facts.has("layer_types") else [0] * count
    return parts.with_attention(
        _glm(facts), lambda index, attention: replace(attention, window=windows[index])
    )


def _glm(facts: Facts) -> Architecture:
    """GLM-4.5 to 4.7, Solar Open: dense layers first, sigmoids, groups, shared experts."""
    normed = facts.flag("use_qk_norm")
    plain = llama.with_head_norms(facts) if normed else llama.llama(facts)
    turning = parts.rotation(facts, parts.sizes(facts), partial=facts.real("partial", 1.0))
    plain = parts.with_attention(plain, lambda _, attention: replace(attention, rotation=turning))
    first = facts.whole("first_k_dense_replace", 0)
    inner = facts.size("moe_intermediate_size")
    shared = facts.whole("n_shared_experts", 0)

    def mlp_of(index: int, name: str) -> Experts | None:
        if index < first:
            return None
        return Experts(
            size=inner,
            activation=facts.activation("hidden_act"),
            routing=grouped(facts, f"{name}.mlp.gate"),
            matrices=experts.matrices(f"{name}.mlp.experts"),
            shared=experts.shared(facts, f"{name}.mlp.shared_experts", shared * inner)
            if shared
            else None,
        )

    return experts.with_mlps(plain, mlp_of)


def grouped(facts: Facts, router: str) -> Routing:
    """Return routing as DeepSeek V3 introduced it."""
    return Routing(
        router,
        experts.count(facts, "n_routed_experts", "num_local_experts", "num_experts"),
        facts.size("num_experts_per_tok"),
        scoring="sigmoid",
        correction=f"{router}.e_score_correction_bias",
        normalise=facts.flag("norm_topk_prob"),
        added_sum=_ADDED,
        scale=facts.real("routed_scaling_factor", 1.0),
        groups=facts.size("n_group", 1),
        chosen_groups=facts.size("topk_group", 1),
        group_best=2,
    )


def _granite(facts: Facts) -> Architecture:
    """Granite's multipliers; some models also have an MLP that all tokens share."""
    return experts.with_mlps(llama.granite(facts), lambda _, name: granite_experts(facts, name))


def granite_experts(facts: Facts, name: str) -> Experts:
    """The experts of Granite's layer `name`, and what all tokens share if it has a size."""
    shared = facts.whole("shared_intermediate_size", 0)
    below = f"{name}.block_sparse_moe"
    return Experts(
        size=facts.size("intermediate_size"),
        activation=facts.activation("hidden_act"),
        routing=Routing(
            f"{below}.router.layer",
            facts.size("num_local_experts"),
            facts.size("num_experts_per_tok"),
            scoring="softmax_of_chosen",
        ),
        matrices=replace(
            experts.matrices(f"{below}.experts"),
            together=f"{below}.input_linear",
            down_together=f"{below}.output_linear",
        ),
        shared=granite_shared(facts, name) if shared else None,
    )


def granite_shared(facts: Facts, name: str) -> Dense:
    """The MLP that all tokens share in Granite's layer `name`."""
    return parts.stated_fused(
        f"{name}.shared_mlp",
        facts,
        size="shared_intermediate_size",
        gate_up="input_linear",
        down="output_linear",
    )


def _ernie(facts: Facts) -> Architecture:
    """ERNIE 4.5: softmax with a correction for choosing, shared experts, some dense layers."""
    plain = llama.interleaved(facts)
    count = len(plain.layers)
    last = facts.raw("moe_layer_end_index")
    end = count - 1 if last in {None, -1} else facts.whole("moe_layer_end_index")
    begin = facts.whole("moe_layer_start_index", 1)
    interval = facts.size("moe_layer_interval", 1)
    inner = facts.size("moe_intermediate_size")
    shared = facts.whole("moe_num_shared_experts", 0)

    def mlp_of(index: int, name: str) -> Experts | None:
        if (index + 1) % interval or not begin <= index <= end:
            return None
        return Experts(
            size=inner,
            activation=facts.activation("hidden_act"),
            routing=Routing(
                f"{name}.mlp.gate",
                experts.count(facts, "moe_num_experts", "num_experts"),
                experts.count(facts, "moe_k", "num_experts_per_tok"),
                correction=f"{name}.mlp.moe_statics.e_score_correction_bias",
                least_sum=facts.real("moe_norm_min", 1e-12),
            ),
            matrices=experts.matrices(f"{name}.mlp.experts"),
            shared=experts.shared(facts, f"{name}.mlp.shared_experts", shared * inner)
            if shared
            else None,
        )

    return experts.with_mlps(plain, mlp_of)


_SIZES: Final = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_GLM: Final = {
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 10_944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}

FAMILIES: Final = (
    Family(("glm4_moe",), _glm, {**_GLM, "partial": 0.5}),
    Family(
        ("solar_open",),
        _glm,
        {
            **_GLM,
            "vocab_size": 196_608,
            "num_hidden_layers": 48,
            "num_attention_heads": 64,
            "head_dim": 128,
            "moe_intermediate_size": 1280,
            "first_k_dense_replace": 0,
            "rope_theta": 1_000_000.0,
        },
    ),
    Family(
        ("dots1",),
        _dots,
        {
            "vocab_size": 152_064,
            "hidden_size": 4608,
            "intermediate_size": 10_944,
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "sliding_window": 4096,
            "max_window_layers": 62,
            "moe_intermediate_size": 1408,
            "use_qk_norm": True,
        },
    ),
    Family(("granitemoe", "granitemoeshared"), _granite, _SIZES),
    Family(
        ("ernie4_5_moe",),
        _ernie,
        {
            "vocab_size": 103_424,
            "hidden_size": 2560,
            "intermediate_size": 12_288,
            "num_hidden_layers": 28,
            "num_attention_heads": 20,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": True,
            "moe_intermediate_size": 1536,
            "moe_k": 6,
            "moe_num_experts": 64,
            "moe_num_shared_experts": 2,
        },
    ),
)
