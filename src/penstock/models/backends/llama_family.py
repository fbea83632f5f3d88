"""The Llama family: a description without switches that only some backends know.

OpenVINO's graph computes this and no more, and so does the lean decoder over several GPUs and on CPUs.
On one GPU it reads the whole description (`penstock.models.architecture`), as the native kernels do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import Experts
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.reading import describe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.models.architecture.description import Architecture, Attention, Layer, Rotation
    from penstock.models.architecture.elements import Norm


class NotInFamily(Exception):
    """Another architecture, or a switch that this family lacks; the message names it."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Shapes and switches of a decoder-only model. Sizes are counted in elements.

    `sliding_windows` has one entry a layer, 0 for full attention.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    norm_epsilon: float
    qk_norm: bool
    tied_embeddings: bool
    sliding_windows: tuple[int, ...]
    rotation: Rotation


def read(config: Any) -> Decoder:
    """The decoder that a Transformers configuration describes.

    :raises NotInFamily: an architecture or a switch that is unknown here.
    """
    try:
        return plain(describe(config.to_dict()))
    except NotDescribed as reason:
        raise NotInFamily(str(reason)) from reason


def plain(model: Architecture) -> Decoder:
    """A description that asks for nothing but what the Llama family has.

    :raises NotInFamily: it asks for more; the message names what.
    """
    reason = next(_beyond(model), None)
    if reason is not None:
        raise NotInFamily(reason)
    first = model.layers[0]
    attention = first.attention
    assert attention.rotation is not None  # noqa: S101 - `_beyond` has looked
    return Decoder(
        layers=len(model.layers),
        hidden_size=model.hidden_size,
        intermediate_size=first.mlp.size,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_size=attention.head_size,
        vocab_size=model.vocab_size,
        norm_epsilon=model.norm.epsilon,
        qk_norm=attention.head_norms is not None,
        tied_embeddings=model.tied,
        sliding_windows=tuple(layer.attention.window for layer in model.layers),
        rotation=attention.rotation,
    )


def _beyond(model: Architecture) -> Iterator[str]:
    """What a description asks for beyond the family, in words."""
    if model.embeddings != "model.embed_tokens":
        yield f"the tensors of {model.family!r} have other names"
    if (model.embedding_scale, model.logit_scale, model.logit_soft_cap) != (1, 1, 0):
        yield "embeddings or logits are scaled"
    if model.inputs is not None or any(layer.scale for layer in model.layers):
        yield "layers have inputs or scales of their own"
    if _is_other(model.norm, model):
        yield "norms are not plain RMS norms"
    first = model.layers[0]
    if any(layer.mixer or not layer.attends for layer in model.layers):
        yield "layers keep a state"
        return
    for index, layer in enumerate(model.layers):
        yield from _beyond_layer(layer, model, f"model.layers.{index}")
        own = layer.attention
        if (own.rotation, own.head_norms is None) != (
            first.attention.rotation,
            first.attention.head_norms is None,
        ):
            yield "layers differ in their rotation or their norms"


def _beyond_layer(layer: Layer, model: Architecture, name: str) -> Iterator[str]:
    if layer.parallel or layer.attention_out or layer.mlp_out or layer.residual_scale != 1:
        yield "residuals are not plain ones"
    if any(norm is None or _is_other(norm, model) for norm in (layer.attention_in, layer.mlp_in)):
        yield "norms are not plain RMS norms"
    mlp = layer.mlp
    if isinstance(mlp, Experts):
        yield "layers have experts"
    elif mlp.gate is None:
        yield "the MLP has no gate"
    elif (mlp.gate_scale, mlp.result_scale) != (1, 1):
        yield "the MLP is scaled"
    elif mlp.activation != "silu":
        yield f"the activation is {mlp.activation!r}"
    elif mlp.up.name != f"{name}.mlp.up_proj":
        yield "projections are one matrix"
    yield from _beyond_attention(layer.attention, name)


def _beyond_attention(own: Attention, name: str) -> Iterator[str]:
    if own.query.name != f"{name}.self_attn.q_proj":
        yield "projections are one matrix"
    turning = own.rotation
    if turning is None or turning.interleaved or turning.kind == "proportional":
        yield "some layers have no positions, or rotation is interleaved"
    elif turning.size != own.head_size:
        yield f"{turning.size} of {own.head_size} elements of a head are rotated"
    if own.scale != own.head_size**-0.5 or own.soft_cap or own.growth or own.sinks:
        yield "scores are not plain ones"
    if own.latent is not None or own.keys_of is not None or own.value_norm is not None:
        yield "keys and values are compressed, shared or normed"
    if own.gate is not None or own.result_scale != 1:
        yield "attention is gated or scaled"
    norms = own.head_norms
    if norms and (norms.kind != "rms" or norms.offset or norms.together or len(norms.query) > 1):
        yield "queries and keys are not normed by head"


def _is_other(norm: Norm, model: Architecture) -> bool:
    return norm.kind != "rms" or norm.offset != 0 or norm.epsilon != model.norm.epsilon


def loadable(path: Path, config: Any, backend: str) -> Decoder:
    """As `read`, for a backend that is to load the model.

    :raises ModelNotLoadable: an architecture or a switch that is unknown here.
    """
    try:
        return read(config)
    except NotInFamily as reason:
        raise ModelNotLoadable(
            f"{path}: not for the {backend} backend: {reason}; use backend 'transformers'"
        ) from reason
