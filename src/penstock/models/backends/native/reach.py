"""Which descriptions the native kernels can compute. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import ClampedGate, Experts
from penstock.models.architecture.mixers import ShortConvolution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.models.architecture.description import Architecture, Layer
    from penstock.models.architecture.elements import Norm
    from penstock.models.architecture.latent import Latent
    from penstock.models.architecture.mixers import Mixer

ROTATIONS: Final = 8
"""Rotary tables that one model may have."""
_LARGEST_HEAD: Final = 512
_LANES: Final = 16
_MOST_TURNED: Final = 256
_LEAST_WIDTH: Final = 2
_MOST_WIDTH: Final = 8
"""Tokens that a convolution may see."""


def beyond(model: Architecture) -> str | None:
    """Return the first feature of a description that these kernels lack, in words; None if none."""
    return next(_beyond(model), None)


def holds_codes(model: Architecture) -> bool:
    """Whether published codes are held as they are.

    They are not if one input feeds matrices that are packed apart, which must then be alike: experts
    and what all tokens share, or a mixer and the attention beside it. Nor if attention is latent, or
    layers have inputs of their own: these are untested.
    """
    return not any(
        (isinstance(layer.mlp, Experts) and layer.mlp.shared is not None)
        or (layer.mixer is not None and layer.attends)
        or layer.attention.latent is not None
        or layer.own_input is not None
        for layer in model.layers
    )


def _beyond(model: Architecture) -> Iterator[str]:
    if not model.attending:
        yield "no layer with attention"
        return
    rotations = {layer.attention.rotation for layer in model.layers} - {None}
    if len(rotations) > ROTATIONS:
        yield f"{len(rotations)} kinds of rotation"
    if model.norm.name is None:
        yield "no final norm"
    for layer in model.layers:
        attention = layer.attention
        if isinstance(layer.mlp, Experts):
            yield from _beyond_experts(layer.mlp)
        if attention.latent is not None:
            yield from _beyond_latent(attention.latent)
        elif attention.head_size % 2 or attention.head_size > _LARGEST_HEAD:
            yield f"heads of {attention.head_size} elements"
        if attention.gate is not None and attention.heads * attention.head_size % _LANES:
            yield "gated attention of no multiple of 16"
        if layer.mixer is not None:
            yield from _beyond_mixer(layer.mixer)
        yield from _beyond_detour(layer)
        yield from _beyond_norms(layer, model.norm)


def _beyond_latent(latent: Latent) -> Iterator[str]:
    if latent.rank % _LANES or latent.rank > _LARGEST_HEAD:
        yield f"latent keys of rank {latent.rank}"
    if latent.turned % 2 or latent.turned > _MOST_TURNED:
        yield f"latent keys with {latent.turned} rotated elements"
    yield from _beyond_index(latent)


def _beyond_index(latent: Latent) -> Iterator[str]:
    index = latent.index
    if index is None or not index.chooses:
        return
    if index.size % _LANES or index.size > _LARGEST_HEAD or index.size < latent.turned:
        yield f"an index of keys of {index.size} elements"
    if not latent.query_rank or (index.norm and index.norm.epsilon != latent.norm.epsilon):
        yield "an index with a norm or a query of another kind"


def _beyond_mixer(mixer: Mixer) -> Iterator[str]:
    if not _LEAST_WIDTH <= mixer.width <= _MOST_WIDTH:
        yield f"a convolution of {mixer.width} tokens"
    if isinstance(mixer, ShortConvolution):
        sizes = (mixer.size,)
    else:
        norm = mixer.norm
        sizes = (mixer.key_size, mixer.value_size, _LANES if norm is None else norm.size)
        keyed = mixer.rule == "keyed_delta"
        if keyed and (mixer.step_down is None or mixer.gate_down is None):
            yield "decays by element without products of their own"
        if not keyed and (mixer.step_down or mixer.gate_down or mixer.gate_is_sigmoid):
            yield "gates of a state that are a product of two matrices"
    if any(size % _LANES for size in sizes):
        yield f"states of {' x '.join(map(str, sizes))}, no multiples of {_LANES}"


def _beyond_detour(layer: Layer) -> Iterator[str]:
    plain = layer.attention.latent is None and not isinstance(layer.mlp, Experts)
    if layer.detour is not None and not (plain and layer.mixer is not None):
        yield "latent attention or experts that only a mixer sees"


def _beyond_experts(experts: Experts) -> Iterator[str]:
    if isinstance(experts.activation, ClampedGate) and not experts.matrices.gated:
        yield "a clamped activation without gates"
    if experts.apart is not None and experts.shared is None:
        yield "experts apart from an MLP that is not there"


def _beyond_norms(layer: Layer, norm: Norm) -> Iterator[str]:
    after = (layer.attention_out, layer.mlp_out)
    detour = None if layer.detour is None else layer.detour.mixer_in
    norms = [one for one in (layer.attention_in, layer.mlp_in, *after, detour) if one is not None]
    heads = layer.attention.head_norms
    alike = (norm.kind, norm.epsilon)
    if any((one.kind, one.epsilon) != alike or one.name is None for one in norms):
        yield "norms of several kinds"
    if heads is not None and heads.epsilon != norm.epsilon:
        yield "norms of heads with another epsilon"
    if layer.parallel and (any(after) or layer.attention_in is None):
        yield "norms after a parallel residual"
