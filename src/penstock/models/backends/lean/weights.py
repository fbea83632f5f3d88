"""A decoder's weights, taken from a module of Transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.backends.lean.operations.ops import HeadNorms
from penstock.models.backends.lean.products.linear import Dense, Fp8, Int4, join
from penstock.models.backends.lean.shape import NotLean

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.products.weight_formats import Holding
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Progress


_WIDE_SHARE: Final = 0.25
"""Of a GPU's free memory, what 4-bit weights may take once more in the model's own type."""


@dataclass(slots=True)
class LayerWeights:
    """One layer: joined projections, and norms before attention and before the MLP."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm: torch.Tensor
    second_norm: torch.Tensor
    head_norms: HeadNorms | None


@dataclass(slots=True)
class Weights:
    """A whole decoder; embeddings (vocab, hidden)."""

    embeddings: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: Linear

    @property
    def nbytes(self) -> int:
        """Memory of the weights, shared ones once."""
        seen: dict[int, int] = {}
        for tensor in self._tensors():
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return sum(seen.values())

    def _tensors(self) -> list[torch.Tensor]:
        found = [self.embeddings, self.norm, *_tensors_of(self.head)]
        for layer in self.layers:
            found += [layer.norm, layer.second_norm]
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down):
                found += _tensors_of(linear)
        return found


def _tensors_of(linear: Linear) -> list[torch.Tensor]:
    if isinstance(linear, Dense):
        held = [linear.weight, linear.bias]
    elif isinstance(linear, Fp8):
        held = [linear.weight, linear.scales, linear.bias]
    else:
        held = [linear.packed, linear.scales, linear.bias, linear.wide]
    return [tensor for tensor in held if tensor is not None]


def untie(module: Any) -> None:
    """Give the head weights of its own: it is quantised, as bigdl-llm does it, the table is not."""
    if module.lm_head.weight is module.model.embed_tokens.weight:
        own = module.lm_head.weight.data.clone()
        module.lm_head.weight = torch.nn.Parameter(own, requires_grad=False)


def adopt(module: Any, shape: Shape) -> Weights:
    """Return a module's weights, joined if they have the same input; the module keeps views of them.

    :raises NotLean: its products are not plain ones (bigdl-llm's hold blocks).
    """
    for name, linear in module.named_modules():
        if isinstance(linear, torch.nn.Linear) and type(linear) is not torch.nn.Linear:
            raise NotLean(f"{name} is a {type(linear).__name__}")
    return Weights(
        embeddings=module.model.embed_tokens.weight.data,
        layers=[adopt_layer(layer, shape) for layer in module.model.layers],
        norm=module.model.norm.weight.data,
        head=join([module.lm_head]),
    )


def adopt_layer(layer: Any, shape: Shape) -> LayerWeights:
    """One layer's weights, as `adopt` takes them."""
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        qkv=join([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=join([attention.o_proj]),
        gate_up=join([mlp.gate_proj, mlp.up_proj]),
        down=join([mlp.down_proj]),
        norm=layer.input_layernorm.weight.data,
        second_norm=layer.post_attention_layernorm.weight.data,
        head_norms=HeadNorms(attention.q_norm.weight.data, attention.k_norm.weight.data)
        if shape.decoder.qk_norm
        else None,
    )


def quantized(
    weights: Weights,
    device: torch.device,
    kind: torch.dtype,
    holding: Holding,
    progress: Progress,
) -> Weights:
    """The same on `device` with the layers' matrices in a format, the rest in `kind`.

    The embeddings stay as they are, and in some formats the head. The dense matrices are
    overwritten with what the new ones stand for, rounded to their type: what a module computes with
    them is then the reference.
    """
    layers: list[LayerWeights] = []
    for done, layer in enumerate(weights.layers):
        progress(0.3 + 0.5 * done / len(weights.layers), f"quantising to {holding.format}")
        layers.append(quantized_layer(layer, device, kind, holding))
    embeddings, norm = weights.embeddings.to(device, kind), weights.norm.to(device, kind)
    head = weights.head
    if isinstance(head, Dense) and head.weight.data_ptr() == weights.embeddings.data_ptr():
        return Weights(embeddings, layers, norm, Dense(embeddings, None))
    return Weights(embeddings, layers, norm, quantized_head(head, device, kind, holding))


def quantized_head(
    head: Linear, device: torch.device, kind: torch.dtype, holding: Holding
) -> Linear:
    """The head, as `quantized` makes it."""
    if holding.head or not isinstance(head, Dense):
        return shrink(head, device, kind, holding)
    bias = None if head.bias is None else head.bias.to(device, kind)
    return Dense(head.weight.to(device, kind), bias)


def quantized_layer(
    layer: LayerWeights, device: torch.device, kind: torch.dtype, holding: Holding
) -> LayerWeights:
    """One layer, as `quantized` makes it."""
    norms = layer.head_norms
    return LayerWeights(
        qkv=shrink(layer.qkv, device, kind, holding),
        out=shrink(layer.out, device, kind, holding),
        gate_up=shrink(layer.gate_up, device, kind, holding),
        down=shrink(layer.down, device, kind, holding),
        norm=layer.norm.to(device, kind),
        second_norm=layer.second_norm.to(device, kind),
        head_norms=None
        if norms is None
        else HeadNorms(norms.query.to(device, kind), norms.key.to(device, kind)),
    )


def shrink(linear: Linear, device: torch.device, kind: torch.dtype, holding: Holding) -> Linear:
    """One matrix, as `quantized` makes it."""
    assert isinstance(linear, Dense)  # noqa: S101 - `adopt` makes no other
    small = holding.hold(linear, device, kind)
    if not isinstance(small, Dense):
        linear.weight.copy_(small.widen(linear.weight.dtype))
    return small


def widen_if_room(weights: Weights, device: Device, kind: torch.dtype) -> None:
    """Store a GPU's 4-bit matrices in `kind` too, if that leaves most memory to the KV cache."""
    owners: list[tuple[Any, str]] = [(weights, "head")]
    for layer in weights.layers:
        owners += [(layer, name) for name in ("qkv", "out", "gate_up", "down")]
    found = [(owner, name, getattr(owner, name)) for owner, name in owners]
    small = [one for one in found if isinstance(one[2], Int4)]
    needed = sum(linear.elements for _, _, linear in small) * kind.itemsize
    if device.kind == "cpu" or needed > device.free_bytes() * _WIDE_SHARE:
        return
    for owner, name, linear in small:
        setattr(owner, name, replace(linear, wide=linear.widen(kind)))
