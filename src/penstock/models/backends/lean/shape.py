"""What the lean decoder must know of a module of Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from penstock.models.architecture import tables
from penstock.models.architecture.description import dense_part
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.reading import describe
from penstock.models.backends import llama_family
from penstock.models.backends.lean import reach
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention, Rotation


class NotLean(Exception):
    """The lean decoder does not know this architecture, or one of its switches."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A decoder's sizes in elements, the same in all layers; those of one rank's part if it has one.

    `intermediate_size` is that of the first layer's MLP, 0 if it has experts alone. `vocab_size` is
    that of the head. `head_size` is a power of two: smaller heads end in zeros.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder with the context length that is served."""

    sizes: Sizes
    context_length: int
    model: Architecture

    @property
    def is_padded(self) -> bool:
        """Whether the model's heads are smaller than those that are computed."""
        return self.sizes.head_size != self.model.layers[0].attention.head_size


@dataclass(frozen=True, slots=True, eq=False)
class Turning:
    """How a layer's queries and keys are rotated.

    `cosines` and `sines` are (context_length, head_size / 2) float32. The first `turned` elements of a
    head are rotated, neighbours together if `interleaved`; the others' cosines are 1, their sines 0.
    `growth` (context_length,) float32 multiplies queries by their position; None if it does not.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    turned: int
    interleaved: bool = False
    growth: torch.Tensor | None = None


def read(module: Any, context_length: int) -> Shape:
    """The shape of a module.

    :raises NotLean: it is not described, or asks for what the lean decoder lacks.
    """
    try:
        model = describe(checkpoint.text_config(module).to_dict())
    except NotDescribed as reason:
        raise NotLean(str(reason)) from reason
    reason = reach.beyond(model)
    if reason is not None:
        raise NotLean(reason)
    first = model.layers[0]
    dense = dense_part(first.mlp)
    sizes = Sizes(
        layers=len(model.layers),
        hidden_size=model.hidden_size,
        intermediate_size=0 if dense is None else dense.size,
        heads=first.attention.heads,
        kv_heads=first.attention.kv_heads,
        head_size=reach.padded_size(first.attention.head_size),
        vocab_size=int(module.lm_head.weight.shape[0]),
    )
    return Shape(sizes, context_length, model)


def require_family(shape: Shape) -> None:
    """Check that a shape asks for no more than the Llama family has.

    :raises NotLean: it does.
    """
    try:
        llama_family.plain(shape.model)
    except llama_family.NotInFamily as reason:
        raise NotLean(str(reason)) from reason


def require_whole_heads(shape: Shape) -> None:
    """Check that heads need no zeros at their ends.

    :raises NotLean: they do.
    """
    if shape.is_padded:
        raise NotLean(f"heads of {shape.model.layers[0].attention.head_size} elements")


def turnings(module: Any, shape: Shape, device: torch.device) -> list[Turning]:
    """Return each layer's rotation; layers that are rotated alike share their tables."""
    made: dict[Any, Turning] = {}
    layers: list[Turning] = []
    for layer in shape.model.layers:
        key = (layer.attention.rotation, layer.attention.growth)
        if key not in made:
            made[key] = _turning(module, shape, layer.attention, device)
        layers.append(made[key])
    return layers


def _turning(module: Any, shape: Shape, attention: Attention, device: torch.device) -> Turning:
    rotation, count, size = attention.rotation, shape.context_length, shape.sizes.head_size
    cosines = torch.ones((count, size // 2), device=device)
    sines = torch.zeros((count, size // 2), device=device)
    if rotation is not None:
        frequencies, scaling = _frequencies(module, shape, rotation)
        positions = torch.arange(count, device=device, dtype=torch.float32)
        angles = positions[:, None] * frequencies.to(device, torch.float32)[None, :]
        cosines[:, : rotation.size // 2] = angles.cos() * scaling
        sines[:, : rotation.size // 2] = angles.sin() * scaling
    growth = None
    if attention.growth is not None:
        growth = torch.as_tensor(tables.growths(attention.growth, count)).to(device)
    return Turning(
        cosines,
        sines,
        size if rotation is None else rotation.size,
        rotation is not None and rotation.interleaved,
        growth,
    )


def _frequencies(module: Any, shape: Shape, rotation: Rotation) -> tuple[torch.Tensor, float]:
    """Return the angles by pair, and the factor of cosines and sines.

    A module with one rotation has them, rounded as it computes with them.
    """
    rotations = {layer.attention.rotation for layer in shape.model.layers} - {None}
    own = getattr(module.model, "rotary_emb", None)
    frequencies = getattr(own, "inv_freq", None)
    if len(rotations) == 1 and isinstance(frequencies, torch.Tensor):
        if frequencies.numel() * 2 != rotation.size:
            raise NotLean("rotary embeddings of another size than described")
        return frequencies, float(getattr(own, "attention_scaling", 1.0))
    described, scaling = tables.frequencies(rotation, shape.context_length)
    return torch.as_tensor(described), scaling
