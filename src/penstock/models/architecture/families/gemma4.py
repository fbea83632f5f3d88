"""Gemma 4: larger heads in full layers, shared keys, inputs by layer, experts beside the MLP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.description import NO_ROWS, Experts, HeadNorms, Layer, Routing
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import experts, parts
from penstock.models.architecture.families.parts import Family
from penstock.models.architecture.rows import Rows
from penstock.models.architecture.side_paths import Apart, LayerInputs, OwnInput

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention, Mlp
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.families.parts import Sizes

_FULL: Final = "full_attention"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What layers have by number: their kinds, and the first that reads another's keys."""

    kinds: list[str]
    first_sharing: int

    def source(self, index: int) -> int | None:
        """The layer whose keys and values a layer reads; None: its own."""
        if index < self.first_sharing:
            return None
        own = range(self.first_sharing - 1, -1, -1)
        source = next((other for other in own if self.kinds[other] == self.kinds[index]), None)
        if source is None:
            raise NotDescribed(f"layer {index} shares keys that no layer has")
        return source


def _gemma4(facts: Facts) -> Architecture:
    if facts.raw("use_bidirectional_attention") == "all":
        raise NotDescribed("attention in both directions")
    size = parts.sizes(facts)
    kinds = list(parts.layer_types(facts, size.layers, pattern=6))
    kinds[-1] = _FULL
    plan = _Plan(kinds, size.layers - facts.whole("num_kv_shared_layers", 0))
    if plan.first_sharing < 1:
        raise NotDescribed("no layer has keys of its own")
    inputs = _inputs(facts, size)
    layers = [
        Layer(
            attention=_attention(facts, size, plan, index),
            mlp=_mlp(facts, size, plan, index),
            attention_in=parts.rms(f"{name}.input_layernorm", facts),
            attention_out=parts.rms(f"{name}.post_attention_layernorm", facts),
            mlp_in=parts.rms(f"{name}.pre_feedforward_layernorm", facts),
            mlp_out=parts.rms(f"{name}.post_feedforward_layernorm", facts),
            own_input=None if inputs is None else _own_input(facts, name, inputs.size, size.hidden),
            scale=f"{name}.layer_scalar",
        )
        for index, name in enumerate(map(parts.layer_name, range(size.layers)))
    ]
    plain = parts.model(
        facts,
        layers,
        parts.rms("model.norm", facts),
        embedding_scale=size.hidden**0.5,
        logit_soft_cap=facts.real("final_logit_softcapping", 0.0),
    )
    return replace(plain, inputs=inputs)


def _overrides(facts: Facts, index: int) -> dict[str, Any]:
    """What a layer has in place of the model's sizes; published files state it for all full layers."""
    stated = facts.mapping("per_layer_config")
    if stated:
        by_layer = {int(number): own for number, own in stated.items()}  # "05", or 5
        own: Any = by_layer.get(index, {})
        return cast("dict[str, Any]", own) if isinstance(own, dict) else {}
    full: dict[str, Any] = {"head_dim": facts.size("global_head_dim", 512)}
    if facts.flag("attention_k_eq_v") and facts.has("num_global_key_value_heads"):
        full["num_key_value_heads"] = facts.size("num_global_key_value_heads")
    return full


def _attention(facts: Facts, size: Sizes, plan: _Plan, index: int) -> Attention:
    name = f"{parts.layer_name(index)}.self_attn"
    kind = plan.kinds[index]
    full = kind == _FULL
    own = _overrides(facts, index) if full or facts.has("per_layer_config") else {}
    head = int(own.get("head_dim", size.head))
    kv_heads = int(own.get("num_key_value_heads", size.kv_heads))
    if kv_heads < 1 or head < 1 or size.heads % kv_heads:
        raise NotDescribed(f"layer {index} has {kv_heads} heads of keys of {head} elements")
    epsilon = facts.real("rms_norm_eps", 1e-6)
    attending = parts.attention(
        name,
        replace(size, head=head, kv_heads=kv_heads),
        rotations.read(facts, head, layer_type=kind),
        window=0 if full else facts.whole("sliding_window", 512),
        scale=1.0,
        head_norms=HeadNorms((f"{name}.q_norm",), (f"{name}.k_norm",), epsilon),
    )
    source = plan.source(index)
    if source is not None:
        return replace(attending, key=NO_ROWS, value=NO_ROWS, keys_of=source)
    if full and facts.flag("attention_k_eq_v"):
        attending = replace(attending, value=attending.key)
    return replace(attending, value_norm=Norm(None, epsilon))


def _mlp(facts: Facts, size: Sizes, plan: _Plan, index: int) -> Mlp:
    name = parts.layer_name(index)
    activation = facts.activation("hidden_activation", "hidden_act")
    wide = facts.flag("use_double_wide_mlp") and plan.source(index) is not None
    inner = size.inner * (2 if wide else 1)
    dense = parts.gated(f"{name}.mlp", replace(size, inner=inner), activation)
    if not facts.flag("enable_moe_block"):
        return dense
    return Experts(
        size=facts.size("moe_intermediate_size"),
        activation=activation,
        routing=Routing(
            f"{name}.router.proj",
            facts.size("num_experts"),
            facts.size("top_k_experts"),
            weights=f"{name}.router.per_expert_scale",
        ),
        matrices=experts.matrices(f"{name}.experts"),
        shared=dense,
        apart=Apart(
            experts_in=parts.rms(f"{name}.pre_feedforward_layernorm_2", facts),
            dense_out=parts.rms(f"{name}.post_feedforward_layernorm_1", facts),
            experts_out=parts.rms(f"{name}.post_feedforward_layernorm_2", facts),
            router_weight=f"{name}.router.scale",
            router_scale=size.hidden**-0.5,
        ),
    )


def _inputs(facts: Facts, size: Sizes) -> LayerInputs | None:
    own = facts.whole("hidden_size_per_layer_input", 0)
    if own == 0:
        return None
    return LayerInputs(
        size=own,
        embeddings="model.embed_tokens_per_layer",
        projection=Rows("model.per_layer_model_projection", size.layers * own),
        norm=parts.rms("model.per_layer_projection_norm", facts),
        activation=facts.activation("hidden_activation", "hidden_act"),
        input_scale=own**0.5,
        projection_scale=size.hidden**-0.5,
        sum_scale=2.0**-0.5,
    )


def _own_input(facts: Facts, name: str, inputs: int, hidden: int) -> OwnInput:
    return OwnInput(
        gate=Rows(f"{name}.per_layer_input_gate", inputs),
        up=Rows(f"{name}.per_layer_projection", hidden),
        norm=parts.rms(f"{name}.post_per_layer_input_norm", facts),
    )


_GEMMA4: Final[dict[str, Any]] = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    },
}

FAMILIES: Final = (
    Family(("gemma4_text",), _gemma4, _GEMMA4),
    Family(
        ("gemma4_unified_text",),
        _gemma4,
        {
            **_GEMMA4,
            "hidden_size_per_layer_input": 0,
            "max_position_embeddings": 262_144,
            "sliding_window": 1024,
        },
    ),
)
