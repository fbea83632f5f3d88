"""A decoder's weights as the lean decoder holds them."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from penstock.models.backends.lean.products.linear import Dense, Fp8Blocks, Int4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.models.architecture.description import Experts
    from penstock.models.backends.lean.joined import Which
    from penstock.models.backends.lean.products.linear import Linear, Matrices
    from penstock.models.backends.lean.products.weight_formats import Holding
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Progress


_WIDE_SHARE: Final = 0.25
"""Of a GPU's free memory, what weights of codes may take once more in the model's own type."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm of rows: RMS, or `centred`, of what is left of them without their mean.

    `weight` and `bias` are (size,); with an offset in it, the weight is float32 (`widened`).
    """

    weight: torch.Tensor
    epsilon: float
    bias: torch.Tensor | None = None
    centred: bool = False
    widened: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is an RMS norm."""
        return not self.centred and self.bias is None

    def to(self, device: torch.device, kind: torch.dtype | None = None) -> Norm:
        """The same on a device, in `kind`."""
        kind = self.weight.dtype if kind is None or self.widened else kind
        bias = None if self.bias is None else self.bias.to(device, kind)
        return replace(self, weight=self.weight.to(device, kind), bias=bias)


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms of queries and of keys before their rotation; see `Norm`.

    The weights are (head_size,), or (heads, head_size) if each head has its own. `together`: the mean
    is taken over all heads of a token.
    """

    query: torch.Tensor
    key: torch.Tensor
    epsilon: float
    centred: bool = False
    together: bool = False
    widened: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is an RMS norm of each head, with one weight."""
        return not self.centred and not self.together and self.query.dim() == 1

    def to(self, device: torch.device, kind: torch.dtype | None = None) -> HeadNorms:
        """The same on a device, in `kind`."""
        kind = self.query.dtype if kind is None or self.widened else kind
        return replace(self, query=self.query.to(device, kind), key=self.key.to(device, kind))


@dataclass(frozen=True, slots=True, eq=False)
class ExpertWeights:
    """A layer's experts: `gate_up` (experts, 2 size, hidden) and `down` (experts, hidden, size).

    Tensors may be transposed views. If `interleaved`, gates and ups alternate, else gates come first.
    Biases are (experts, rows). `router` (experts, hidden) has its scores in its own type;
    `correction` (experts,) float32. `shared_gate` (1, hidden) is that of the MLP beside them.
    """

    form: Experts
    router: Dense
    gate_up: Matrices
    down: Matrices
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    interleaved: bool = False
    correction: torch.Tensor | None = None
    shared_gate: torch.Tensor | None = None

    def to(
        self, device: torch.device, kind: torch.dtype, gate_up: Matrices, down: Matrices
    ) -> ExpertWeights:
        """The same on a device, in `kind`, with these matrices."""
        router, exact = self.router, self.form.routing.is_exact
        bias = None if router.bias is None else router.bias.to(device)
        weight = router.weight.to(device) if exact else router.weight.to(device, kind)
        return replace(
            self,
            router=Dense(weight, bias if exact or bias is None else bias.to(kind)),
            gate_up=gate_up,
            down=down,
            gate_up_bias=_moved(self.gate_up_bias, device, kind),
            down_bias=_moved(self.down_bias, device, kind),
            correction=None if self.correction is None else self.correction.to(device),
            shared_gate=_moved(self.shared_gate, device, kind),
        )


def _moved(
    tensor: torch.Tensor | None, device: torch.device, kind: torch.dtype
) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device, kind)


@dataclass(slots=True)
class LayerWeights:
    """One layer: joined projections, norms before attention and MLP, norms of their results.

    `gate_up` and `down` are None if there are experts alone. `sinks` (heads,) float32.
    """

    qkv: Linear
    out: Linear
    gate_up: Linear | None
    down: Linear | None
    norm: Norm | None
    second_norm: Norm | None
    head_norms: HeadNorms | None
    out_norm: Norm | None = None
    mlp_out_norm: Norm | None = None
    sinks: torch.Tensor | None = None
    experts: ExpertWeights | None = None


@dataclass(slots=True)
class Weights:
    """A whole decoder; embeddings (vocab, hidden)."""

    embeddings: torch.Tensor
    layers: list[LayerWeights]
    norm: Norm
    head: Linear

    @property
    def nbytes(self) -> int:
        """Memory of the weights, shared ones once."""
        seen: dict[int, int] = {}
        for tensor in _tensors_in(self):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return sum(seen.values())


def _tensors_in(held: Any) -> Iterator[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, list):
        for one in cast("list[Any]", held):
            yield from _tensors_in(one)
    elif is_dataclass(held):
        for part in fields(held):
            yield from _tensors_in(getattr(held, part.name))


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

    def hold(which: Which, linear: Linear) -> Linear:
        del which
        return shrink(linear, device, kind, holding)

    def hold_experts(experts: ExpertWeights) -> ExpertWeights:
        made: list[Matrices] = []
        for dense in (experts.gate_up, experts.down):
            assert isinstance(dense, torch.Tensor)  # noqa: S101 - `adopt` makes no other
            small = holding.hold_experts(dense, device, kind)
            if not isinstance(small, torch.Tensor):
                dense.copy_(small.widen(dense.dtype))
            made.append(small)
        return experts.to(device, kind, *made)

    return placed_layer(layer, device, kind, hold, hold_experts)


def placed_layer(
    layer: LayerWeights,
    device: torch.device,
    kind: torch.dtype,
    hold: Callable[[Which, Linear], Linear],
    hold_experts: Callable[[ExpertWeights], ExpertWeights],
) -> LayerWeights:
    """One layer on a device, in `kind`, with what is made of its matrices."""
    changed: dict[str, Any] = {name: hold(name, linear) for name, linear in matrices(layer)}
    for name in ("norm", "second_norm", "head_norms", "out_norm", "mlp_out_norm"):
        norm: Norm | HeadNorms | None = getattr(layer, name)
        changed[name] = None if norm is None else norm.to(device, kind)
    sinks = None if layer.sinks is None else layer.sinks.to(device)
    experts = None if layer.experts is None else hold_experts(layer.experts)
    return replace(layer, sinks=sinks, experts=experts, **changed)


def shrink(linear: Linear, device: torch.device, kind: torch.dtype, holding: Holding) -> Linear:
    """One matrix, as `quantized` makes it."""
    assert isinstance(linear, Dense)  # noqa: S101 - `adopt` makes no other
    small = holding.hold(linear, device, kind)
    if not isinstance(small, Dense):
        linear.weight.copy_(small.widen(linear.weight.dtype))
    return small


_JOINED: Final[tuple[Which, ...]] = ("qkv", "out", "gate_up", "down")


def matrices(layer: LayerWeights) -> Iterator[tuple[Which, Linear]]:
    """Yield a layer's joined matrices by name."""
    for name in _JOINED:
        linear: Linear | None = getattr(layer, name)
        if linear is not None:
            yield name, linear


def widen_if_room(weights: Weights, device: Device, kind: torch.dtype) -> None:
    """Store a GPU's matrices of codes in `kind` too, if that leaves most memory to the KV cache.

    Not those of experts, and not in FP8 with scales by row, which units multiply as they are.
    """
    found: list[tuple[Any, str, Linear]] = [(weights, "head", weights.head)]
    for layer in weights.layers:
        found += [(layer, name, linear) for name, linear in matrices(layer)]
    small = [(owner, name, one) for owner, name, one in found if isinstance(one, Int4 | Fp8Blocks)]
    needed = sum(linear.elements for _, _, linear in small) * kind.itemsize
    if device.kind == "cpu" or needed > device.free_bytes() * _WIDE_SHARE:
        return
    for owner, name, linear in small:
        setattr(owner, name, replace(linear, wide=linear.widen(kind)))
