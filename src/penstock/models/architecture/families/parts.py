"""Common parts of families: sizes, projections, MLPs, windows, and the model around its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.description import (
    NO_ATTENTION,
    Architecture,
    Attention,
    Dense,
    Layer,
    Rotation,
)
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from penstock.models.architecture.description import HeadNorms, Mlp
    from penstock.models.architecture.elements import Activation
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.mixers import Mixer

SLIDING = "sliding_attention"
_KINDS = ("full_attention", SLIDING)
_MOST_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Family:
    """How the configurations of `model_types` are read.

    `defaults` stand for what a config.json leaves out, as Transformers' classes have them.
    """

    model_types: tuple[str, ...]
    describe: Callable[[Facts], Architecture]
    defaults: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """A decoder's sizes, the same in all layers."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int


def sizes(facts: Facts, *, head: int | None = None, inner: int | None = None) -> Sizes:
    """Return the sizes, from the names that most families use, but for those that are given.

    :raises NotDescribed: one is missing, or they are inconsistent.
    """
    hidden, heads = facts.size("hidden_size"), facts.size("num_attention_heads")
    size = Sizes(
        hidden=hidden,
        layers=facts.size("num_hidden_layers"),
        heads=heads,
        kv_heads=facts.size("num_key_value_heads", heads),
        head=facts.size("head_dim", max(hidden // heads, 1)) if head is None else head,
        inner=facts.size("intermediate_size") if inner is None else inner,
    )
    if heads % size.kv_heads or size.layers > _MOST_LAYERS:
        raise NotDescribed(f"{heads} heads, {size.kv_heads} of keys, {size.layers} layers")
    return size


def layer_types(facts: Facts, layers: int, *, pattern: int = 0) -> list[str]:
    """Return the type of each layer's attention.

    `pattern` n: if nothing is stated, every n-th layer is full and the others slide; 0: all slide.

    :raises NotDescribed: a type that is not attention over keys.
    """
    stated = stated_types(facts, layers, _KINDS)
    if stated is None:
        full = [pattern > 0 and (layer + 1) % pattern == 0 for layer in range(layers)]
        return ["full_attention" if is_full else SLIDING for is_full in full]
    return stated


def stated_types(facts: Facts, layers: int, known: Collection[str]) -> list[str] | None:
    """Return the type of each layer as the configuration states it; None if it states none.

    :raises NotDescribed: a type that is not in `known`.
    """
    stated = facts.listed("layer_types", layers)
    for kind in stated or ():
        if str(kind) not in known:
            raise NotDescribed(f"a layer of type {kind!r}")
    return stated


def windows(facts: Facts, layers: int, *, pattern: int = 0) -> list[int]:
    """Return the number of keys that a query sees, by layer; 0 is all of them."""
    window = facts.whole("sliding_window", 0)
    kinds = layer_types(facts, layers, pattern=pattern)
    return [window if kind == SLIDING else 0 for kind in kinds]


def rms(name: str, facts: Facts, *, offset: float = 0.0) -> Norm:
    """Return an RMS norm with the configured epsilon."""
    return Norm(name, facts.real("rms_norm_eps", 1e-6), offset=offset)


def attention(
    name: str,
    size: Sizes,
    rotation: Rotation | None,
    *,
    window: int = 0,
    scale: float | None = None,
    soft_cap: float = 0.0,
    head_norms: HeadNorms | None = None,
    output: str = "o_proj",
    fused: str | None = None,
) -> Attention:
    """Return attention with projections below `name`: q_proj, k_proj, v_proj, or one `fused`."""
    across, narrow = size.heads * size.head, size.kv_heads * size.head
    if fused is None:
        query = Rows(f"{name}.q_proj", across)
        key, value = Rows(f"{name}.k_proj", narrow), Rows(f"{name}.v_proj", narrow)
    else:
        total = across + 2 * narrow
        query = Rows(f"{name}.{fused}", across, 0, total)
        key = Rows(f"{name}.{fused}", narrow, across, total)
        value = Rows(f"{name}.{fused}", narrow, across + narrow, total)
    return Attention(
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_size=size.head,
        query=query,
        key=key,
        value=value,
        output=Rows(f"{name}.{output}", size.hidden),
        rotation=rotation,
        scale=size.head**-0.5 if scale is None else scale,
        window=window,
        soft_cap=soft_cap,
        head_norms=head_norms,
    )


def gated(name: str, size: Sizes, activation: Activation) -> Dense:
    """Return an MLP with gate_proj, up_proj and down_proj below `name`."""
    gate, up = Rows(f"{name}.gate_proj", size.inner), Rows(f"{name}.up_proj", size.inner)
    return Dense(size.inner, activation, gate, up, Rows(f"{name}.down_proj", size.hidden))


def fused_gated(
    name: str, inner: int, hidden: int, activation: Activation, *, gate_up: str, down: str
) -> Dense:
    """Return an MLP with one matrix below `name` whose upper half is the gate."""
    gate = Rows(f"{name}.{gate_up}", inner, 0, 2 * inner)
    up = Rows(f"{name}.{gate_up}", inner, inner, 2 * inner)
    return Dense(inner, activation, gate, up, Rows(f"{name}.{down}", hidden))


def stated_fused(
    name: str,
    facts: Facts,
    *,
    size: str = "intermediate_size",
    gate_up: str = "gate_up_proj",
    down: str = "down_proj",
) -> Dense:
    """Return `fused_gated` of the configured sizes; `size` is the key of the inner one."""
    return fused_gated(
        name,
        facts.size(size),
        facts.size("hidden_size"),
        facts.activation("hidden_act"),
        gate_up=gate_up,
        down=down,
    )


def plain(name: str, size: Sizes, activation: Activation, *, up: str, down: str) -> Dense:
    """Return an MLP without a gate."""
    return Dense(
        size.inner,
        activation,
        None,
        Rows(f"{name}.{up}", size.inner),
        Rows(f"{name}.{down}", size.hidden),
    )


def prenormed(name: str, facts: Facts, attending: Attention, mlp: Mlp) -> Layer:
    """Return Llama's layer: an RMS norm before attention and one before the MLP."""
    return Layer(
        attention=attending,
        mlp=mlp,
        attention_in=rms(f"{name}.input_layernorm", facts),
        mlp_in=rms(f"{name}.post_attention_layernorm", facts),
        residual_scale=facts.real("residual_multiplier", 1.0),
    )


def hybrid_layers(
    attends: Iterable[bool],
    *,
    attention_of: Callable[[str], Attention],
    mixer_of: Callable[[str], Mixer],
    mlp_of: Callable[[str], Mlp],
    norms_of: Callable[[str], tuple[Norm, Norm]],
) -> list[Layer]:
    """Return layers that attend or, where they do not, have a mixer; each has an MLP.

    Each function is given a layer's prefix; `norms_of` returns the norms before attention or
    mixer, and before the MLP.
    """
    layers: list[Layer] = []
    for index, is_attention in enumerate(attends):
        name = layer_name(index)
        first, second = norms_of(name)
        layers.append(
            Layer(
                attention=attention_of(name) if is_attention else NO_ATTENTION,
                mixer=None if is_attention else mixer_of(name),
                mlp=mlp_of(name),
                attention_in=first,
                mlp_in=second,
            )
        )
    return layers


def model(
    facts: Facts,
    layers: Iterable[Layer],
    norm: Norm,
    *,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    logit_soft_cap: float = 0.0,
) -> Architecture:
    """Return a model with embeddings, layers and head, with most families' names."""
    vocabulary = facts.size("vocab_size")
    return Architecture(
        family=str(facts.raw("model_type")),
        hidden_size=facts.size("hidden_size"),
        vocab_size=vocabulary,
        context_length=facts.size("max_position_embeddings", 4096),
        layers=tuple(layers),
        embeddings="model.embed_tokens",
        norm=norm,
        head=Rows("lm_head", vocabulary),
        tied=facts.flag("tie_word_embeddings"),
        embedding_scale=embedding_scale,
        logit_scale=logit_scale,
        logit_soft_cap=logit_soft_cap,
    )


def with_attention(
    plain: Architecture, change: Callable[[int, Attention], Attention]
) -> Architecture:
    """Return a model with `change`, given a layer's number, applied to each layer's attention."""
    layers = [
        replace(layer, attention=change(index, layer.attention))
        for index, layer in enumerate(plain.layers)
    ]
    return replace(plain, layers=tuple(layers))


def layer_name(index: int) -> str:
    """Return the prefix of a layer's tensors."""
    return f"model.layers.{index}"


def rotation(
    facts: Facts, size: Sizes, *, interleaved: bool = False, partial: float = 1.0
) -> Rotation:
    """Return one rotation for all layers."""
    return rotations.read(facts, size.head, interleaved=interleaved, partial=partial)
