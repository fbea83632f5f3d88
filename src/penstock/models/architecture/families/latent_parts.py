"""Common parts of models with latent attention: the attention, and DeepSeek's experts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.description import NO_ROWS, Attention, Experts
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.families import experts, parts
from penstock.models.architecture.latent import Latent
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.description import Mlp, Rotation, Routing
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.families.parts import Sizes

_LATENT_EPSILON: Final = 1e-6
"""Of the norms of compressed queries and keys, whatever the configuration says of the others."""

DEEPSEEK: Final[dict[str, Any]] = {
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
}
"""What a configuration of DeepSeek V3 or V3.2 leaves out."""


def attention(
    facts: Facts, name: str, size: Sizes, rotation: Rotation | None, scale: float
) -> Attention:
    """Return the attention below `name`, whose last `qk_rope_head_dim` elements a head are rotated."""
    plain, turned = facts.size("qk_nope_head_dim"), facts.size("qk_rope_head_dim")
    rank, value = facts.size("kv_lora_rank"), facts.size("v_head_dim")
    query_rank = facts.whole("q_lora_rank", 0)
    across = size.heads * (plain + turned)
    latent = Latent(
        rank=rank,
        turned=turned,
        plain=plain,
        value=value,
        compressed=Rows(f"{name}.kv_a_proj_with_mqa", rank + turned),
        expanded=Rows(f"{name}.kv_b_proj", size.heads * (plain + value)),
        norm=Norm(f"{name}.kv_a_layernorm", _LATENT_EPSILON),
        query_rank=query_rank,
        query_down=Rows(f"{name}.q_a_proj", query_rank) if query_rank else None,
        query_norm=Norm(f"{name}.q_a_layernorm", _LATENT_EPSILON) if query_rank else None,
    )
    return Attention(
        heads=size.heads,
        kv_heads=size.heads,
        head_size=plain + turned,
        query=Rows(f"{name}.{'q_b_proj' if query_rank else 'q_proj'}", across),
        key=NO_ROWS,
        value=NO_ROWS,
        output=Rows(f"{name}.o_proj", size.hidden),
        rotation=rotation,
        scale=scale,
        latent=latent,
    )


def rotated(facts: Facts, name: str, size: Sizes, *, interleaved: bool) -> Attention:
    """Return the same with the configured rotation, and what that means for scores."""
    turned = facts.size("qk_rope_head_dim")
    turning = rotations.read(facts, turned, interleaved=interleaved)
    scale = _scale(facts, facts.size("qk_nope_head_dim") + turned)
    return attention(facts, name, size, turning, scale)


def _scale(facts: Facts, size: int) -> float:
    """Of scores; if rotations are stretched, by more than their own factor."""
    rules = rotations.parameters(facts)
    all_dim = float(rules.get("mscale_all_dim") or 0.0)
    factor = float(rules.get("factor") or 1.0)
    kind = rules.get("rope_type", rules.get("type", "default"))
    if kind == "default" or not all_dim or factor <= 1:
        return size**-0.5
    return size**-0.5 * (0.1 * all_dim * math.log(factor) + 1.0) ** 2


def mlp(facts: Facts, name: str, size: Sizes, routing: Routing | None) -> Mlp:
    """Return a layer's MLP; with a `routing`, experts beside those that all tokens share."""
    activation = facts.activation("hidden_act")
    if routing is None:
        return parts.gated(f"{name}.mlp", size, activation)
    inner = facts.size("moe_intermediate_size")
    shared = facts.whole("n_shared_experts", 0)
    own = routing.router.removesuffix(".gate")
    return Experts(
        size=inner,
        activation=activation,
        routing=routing,
        matrices=experts.matrices(f"{own}.experts"),
        shared=experts.shared(facts, f"{own}.shared_experts", shared * inner) if shared else None,
    )
