"""The differences between models and layers in the native library's form, from a description."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import dense_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.architecture.description import Architecture, Layer, Rotation
    from penstock.models.architecture.elements import Activation

NOT_TURNED: Final = -1
OWN_KEYS: Final = -1


class NormKind(enum.IntEnum):
    """Kinds of norms."""

    NONE = 0
    RMS = 1
    LAYER = 2


class Where(enum.IntFlag):
    """The places in which a layer has norms."""

    BEFORE_ATTENTION = 1
    AFTER_ATTENTION = 2
    BEFORE_MLP = 4
    AFTER_MLP = 8


_KINDS: Final = {"rms": NormKind.RMS, "layer": NormKind.LAYER}
ACTIVATIONS: Final[dict[Activation, int]] = {
    "silu": 0,
    "gelu": 2,
    "gelu_tanh": 3,
    "relu": 4,
    "relu2": 5,
}


class _Traits(ctypes.Structure):
    _fields_ = (
        ("norm", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("embedding_scale", "logit_scale", "logit_cap")),
        *((name, ctypes.c_int32) for name in ("layer_inputs", "input_activation")),
        *((name, ctypes.c_float) for name in ("input_scale", "projection_scale", "sum_scale")),
    )


_SCALES: Final = (
    "scale",
    "soft_cap",
    "residual_scale",
    "attention_scale",
    "gate_scale",
    "mlp_scale",
)


class _Layer(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "window",
                "rotation",
                "intermediate",
                "gated",
                "activation",
                "norms",
                "head_norms",
                "norms_by_head",
                "norms_together",
                "parallel",
                "grows",
                "attends",
                "gated_attention",
                "heads",
                "kv_heads",
                "head_size",
                "keys_of",
            )
        ),
        *((name, ctypes.c_float) for name in _SCALES),
        *((name, ctypes.c_int32) for name in ("slides", "detours", "wide")),
    )


@dataclass(frozen=True, slots=True)
class Traits:
    """A model's properties besides its shape."""

    norm: NormKind = NormKind.RMS
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float = 0.0
    layer_inputs: int = 0
    input_activation: int = 0
    input_scale: float = 1.0
    projection_scale: float = 1.0
    sum_scale: float = 1.0

    def native(self) -> ctypes.Structure:
        """The library's own structure."""
        return _Traits(*astuple(self))


@dataclass(frozen=True, slots=True)
class LayerTraits:
    """Properties that vary between layers; `rotation` is the number of a rotary table.

    A layer that `slides` has its keys and values in the window cache. One that `detours` has an
    attention and an MLP for its mixer alone.
    """

    window: int
    rotation: int
    intermediate: int
    gated: bool
    activation: int
    norms: Where
    head_norms: NormKind
    norms_by_head: bool
    norms_together: bool
    parallel: bool
    grows: bool
    attends: bool
    gated_attention: bool
    heads: int
    kv_heads: int
    head_size: int
    keys_of: int
    scale: float
    soft_cap: float
    residual_scale: float
    attention_scale: float = 1.0
    gate_scale: float = 1.0
    mlp_scale: float = 1.0
    slides: bool = False
    detours: bool = False
    wide: bool = False

    def native(self) -> ctypes.Structure:
        """The library's own structure."""
        return _Layer(*astuple(self))


def of_model(model: Architecture) -> Traits:
    """The traits of a described model."""
    plain = Traits(
        _KINDS[model.norm.kind], model.embedding_scale, model.logit_scale, model.logit_soft_cap
    )
    own = model.inputs
    if own is None:
        return plain
    return replace(
        plain,
        layer_inputs=own.size,
        input_activation=ACTIVATIONS[own.activation],
        input_scale=own.input_scale,
        projection_scale=own.projection_scale,
        sum_scale=own.sum_scale,
    )


def of_layer(layer: Layer, rotations: Sequence[Rotation], *, slides: bool) -> LayerTraits:
    """The traits of a described layer; `rotations` are the model's, in their tables' order."""
    attention, mlp = layer.attention, dense_part(layer.mlp)
    turning, heads = attention.rotation, attention.head_norms
    places = {
        Where.BEFORE_ATTENTION: layer.attention_in,
        Where.AFTER_ATTENTION: layer.attention_out,
        Where.BEFORE_MLP: layer.mlp_in,
        Where.AFTER_MLP: layer.mlp_out,
    }
    return LayerTraits(
        window=attention.window,
        rotation=NOT_TURNED if turning is None else rotations.index(turning),
        intermediate=0 if mlp is None else mlp.size,
        gated=mlp is None or mlp.gate is not None,
        activation=0 if mlp is None else ACTIVATIONS[mlp.activation],
        norms=Where(sum(where for where, norm in places.items() if norm is not None)),
        head_norms=NormKind.NONE if heads is None else _KINDS[heads.kind],
        norms_by_head=heads is not None,
        norms_together=heads is not None and heads.together,
        parallel=layer.parallel,
        grows=attention.growth is not None,
        attends=layer.attends,
        gated_attention=attention.gate is not None,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_size=attention.head_size,
        keys_of=OWN_KEYS if attention.keys_of is None else attention.keys_of,
        scale=attention.scale,
        soft_cap=attention.soft_cap,
        residual_scale=layer.residual_scale,
        attention_scale=attention.result_scale,
        gate_scale=1.0 if mlp is None else mlp.gate_scale,
        mlp_scale=1.0 if mlp is None else mlp.result_scale,
        slides=slides,
        detours=layer.detour is not None,
        wide=layer.wide,
    )
