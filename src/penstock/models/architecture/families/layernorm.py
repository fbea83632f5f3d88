"""Cohere, StableLM, StarCoder2, Nemotron: layer norms, some with parallel residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import HeadNorms, Layer
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.families import parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention, Mlp
    from penstock.models.architecture.facts import Facts


def _normed(
    name: str,
    attention: Attention,
    mlp: Mlp,
    epsilon: float,
    *,
    offset: float = 0.0,
    parallel: bool = False,
) -> Layer:
    """A layer norm before attention, and one before the MLP unless the two are parallel."""
    second = Norm(f"{name}.post_attention_layernorm", epsilon, "layer", offset)
    return Layer(
        attention=attention,
        mlp=mlp,
        attention_in=Norm(f"{name}.input_layernorm", epsilon, "layer", offset),
        mlp_in=None if parallel else second,
        parallel=parallel,
    )


def _cohere(facts: Facts) -> Architecture:
    """Command R: parallel residuals, interleaved rotation, a separate norm for each head."""
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, interleaved=True)
    epsilon = facts.real("layer_norm_eps", 1e-5)
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        norms = HeadNorms(
            (f"{name}.self_attn.q_norm",), (f"{name}.self_attn.k_norm",), epsilon, "layer"
        )
        attention = parts.attention(
            f"{name}.self_attn",
            size,
            turning,
            head_norms=norms if facts.flag("use_qk_norm") else None,
        )
        mlp = parts.gated(f"{name}.mlp", size, facts.activation("hidden_act"))
        layers.append(_normed(name, attention, mlp, epsilon, parallel=True))
    scale = facts.real("logit_scale", 1.0)
    norm = Norm("model.norm", epsilon, "layer")
    return parts.model(facts, layers, norm, logit_scale=scale)


def _cohere2(facts: Facts) -> Architecture:
    """Command R7B and A: only the sliding layers have positions."""
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, interleaved=True)
    epsilon = facts.real("layer_norm_eps", 1e-5)
    stated = facts.raw("sliding_window_pattern") or facts.raw("_sliding_window_pattern")
    pattern = stated if isinstance(stated, int) else 4
    layers: list[Layer] = []
    for index, window in enumerate(parts.windows(facts, size.layers, pattern=pattern)):
        name = parts.layer_name(index)
        turns = turning if window else None
        attention = parts.attention(f"{name}.self_attn", size, turns, window=window)
        mlp = parts.gated(f"{name}.mlp", size, facts.activation("hidden_act"))
        layers.append(_normed(name, attention, mlp, epsilon, parallel=True))
    scale = facts.real("logit_scale", 1.0)
    norm = Norm("model.norm", epsilon, "layer")
    return parts.model(facts, layers, norm, logit_scale=scale)


def _stablelm(facts: Facts) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, partial=0.25)
    epsilon = facts.real("layer_norm_eps", 1e-5)
    parallel = facts.flag("use_parallel_residual")
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        own = f"{name}.self_attn"
        norms = HeadNorms(
            tuple(f"{own}.q_layernorm.norms.{head}" for head in range(size.heads)),
            tuple(f"{own}.k_layernorm.norms.{head}" for head in range(size.kv_heads)),
            epsilon,
            "layer",
        )
        attention = parts.attention(
            own, size, turning, head_norms=norms if facts.flag("qk_layernorm") else None
        )
        mlp = parts.gated(f"{name}.mlp", size, facts.activation("hidden_act"))
        layers.append(_normed(name, attention, mlp, epsilon, parallel=parallel))
    return parts.model(facts, layers, Norm("model.norm", epsilon, "layer"))


def _starcoder2(facts: Facts) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size)
    epsilon = facts.real("norm_epsilon", 1e-5)
    window = facts.whole("sliding_window", 0)
    activation = facts.activation("hidden_act")
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        attention = parts.attention(f"{name}.self_attn", size, turning, window=window)
        mlp = parts.plain(f"{name}.mlp", size, activation, up="c_fc", down="c_proj")
        layers.append(_normed(name, attention, mlp, epsilon))
    return parts.model(facts, layers, Norm("model.norm", epsilon, "layer"))


def _nemotron(facts: Facts) -> Architecture:
    """Nemotron and Minitron: norms' weights count from 1, and the MLP has no gate."""
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, partial=0.5)
    epsilon = facts.real("norm_eps", 1e-5)
    activation = facts.activation("hidden_act")
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        attention = parts.attention(f"{name}.self_attn", size, turning)
        mlp = parts.plain(f"{name}.mlp", size, activation, up="up_proj", down="down_proj")
        layers.append(_normed(name, attention, mlp, epsilon, offset=1.0))
    return parts.model(facts, layers, Norm("model.norm", epsilon, "layer", 1.0))


_COHERE: Final = {
    "vocab_size": 256_000,
    "hidden_size": 8192,
    "intermediate_size": 22_528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
}
_STABLELM: Final = {
    "vocab_size": 50_304,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}
_STARCODER2: Final = {
    "vocab_size": 49_152,
    "hidden_size": 3072,
    "intermediate_size": 12_288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
_NEMOTRON: Final = {
    "vocab_size": 256_000,
    "hidden_size": 6144,
    "intermediate_size": 24_576,
    "num_hidden_layers": 32,
    "num_attention_heads": 48,
    "max_position_embeddings": 4096,
    "hidden_act": "relu2",
}

FAMILIES: Final = (
    Family(("cohere",), _cohere, {**_COHERE, "rope_theta": 500_000.0}),
    Family(("cohere2",), _cohere2, {**_COHERE, "head_dim": 128, "sliding_window": 4096}),
    Family(("stablelm",), _stablelm, _STABLELM),
    Family(("starcoder2",), _starcoder2, _STARCODER2),
    Family(("nemotron",), _nemotron, _NEMOTRON),
)
