"""A model over several devices: rank 0 loads it with the others, and tries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.backends.lean import adoption
from penstock.models.backends.lean import published as lean_published
from penstock.models.backends.lean import shape as shapes
from penstock.models.backends.lean import weights as all_weights
from penstock.models.backends.lean.body import Body
from penstock.models.backends.lean.loading import ops_for
from penstock.models.backends.lean.products import low_bit
from penstock.models.backends.lean.products.linear import join
from penstock.models.backends.lean.products.weight_formats import FP8, holding_of
from penstock.models.backends.lean.shape import NotLean
from penstock.models.backends.lean.weights import Weights
from penstock.models.backends.tensor_parallel.group import Group
from penstock.models.backends.tensor_parallel.model import ParallelModel
from penstock.models.backends.tensor_parallel.part import Part
from penstock.models.backends.tensor_parallel.team import Team
from penstock.models.backends.transformers import dtypes, rope
from penstock.models.loading import checkpoint, published
from penstock.models.loading.assembled import Assembled
from penstock.models.loading.probe import Probe

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.weight_formats import Holding
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.tensor_parallel.team import Order
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec

_CPU = torch.device("cpu")
_EXACT, _ROUNDED = 1e-3, 0.1  # relative errors of logits that count as equal


@dataclass(frozen=True, slots=True)
class _Source:
    """A module on the CPU. `kind` is what to compute in; `holding` None: its matrices too."""

    module: Any
    shape: Shape
    kind: torch.dtype
    holding: Holding | None

    @property
    def format(self) -> str:
        return self.holding.format if self.holding else dtypes.NAMES[self.kind]

    @property
    def tolerance(self) -> float:
        exact = self.kind == torch.float32 and self.holding is None
        return _EXACT if exact else _ROUNDED


def load(spec: ModelSpec, progress: Progress) -> Assembled:
    """Load a model on its devices, a process each beside this one.

    Every rank reads the checkpoint and keeps its part. This one keeps the module on the CPU until
    its logits have been compared with those of the ranks together.

    :raises ModelNotLoadable: with one line about the reason.
    """
    threads = _threads(spec)
    devices.set_threads(threads)
    team = Team(spec, threads)
    try:
        return _load(spec, team, progress)
    except BaseException:
        team.close()
        raise


@torch.inference_mode()
def load_part(order: Order) -> Body:
    """A rank's own part, on its device.

    :raises ModelNotLoadable: with one line about the reason.
    """
    spec = order.spec
    device = devices.device_of(spec, order.rank)
    source = _read(spec, device, _untold)
    part = _part(spec, source, order.rank)
    place, module, kind, holding = device.torch_device, source.module, source.kind, source.holding
    layers: list[all_weights.LayerWeights] = []
    for index, layer in enumerate(module.model.layers):
        whole = adoption.adopt_layer(module, source.shape, index)
        if holding is None:
            own = part.layer(whole, place)
        elif holding.of_whole_rows:
            own = part.layer(all_weights.quantized_layer(whole, place, kind, holding), place)
        else:
            own = all_weights.quantized_layer(part.layer(whole, _CPU), place, kind, holding)
        layers.append(own)
        layer.to("meta")  # so that a rank holds no more of the whole than it must
    head = part.head(join([module.lm_head]), _CPU if holding else place)
    weights = Weights(
        module.model.embed_tokens.weight.data.to(place, kind),
        layers,
        adoption.adopt_norm(module, source.shape).to(place, kind),
        head if holding is None else all_weights.quantized_head(head, place, kind, holding),
    )
    return _body(spec, source, part, weights, device)


@torch.inference_mode()
def _load(spec: ModelSpec, team: Team, progress: Progress) -> Assembled:
    device = devices.device_of(spec)
    progress(0.05, f"reading {spec.path}, {team.ranks} ranks")
    source = _read(spec, device, progress)
    module = source.module
    part = _part(spec, source, 0)
    adopted = adoption.adopt(module, source.shape)
    if source.holding:
        adopted = all_weights.quantized(adopted, _CPU, source.kind, source.holding, progress)
    place = device.torch_device
    weights = Weights(
        adopted.embeddings.to(place),
        [part.layer(layer, place) for layer in adopted.layers],
        adopted.norm.to(place),
        part.head(adopted.head, place),
    )
    body = _body(spec, source, part, weights, device)
    progress(0.8, f"waiting for {team.ranks - 1} other ranks")
    team.join()
    group = Group(team.meeting, 0, team.ranks, body, direct=spec.peer_memory)
    model = ParallelModel(body, team, group)
    progress(0.85, "trying the model")
    try:
        if source.holding is FP8:
            probe = low_bit.probe_of(module, adopted, FP8)
        else:
            probe = Probe(module, _CPU, source.tolerance)
        _try(model, probe, spec)
    except BaseException:
        model.close()
        raise
    return Assembled(
        model=model,
        backend=spec.backend,
        format=source.format,
        architecture=type(module).__name__,
        parameters=checkpoint.parameters(module),
        weights_bytes=adopted.nbytes,
        running="lean",
        kept=published.noted(module),
    )


def _try(model: ParallelModel, probe: Probe, spec: ModelSpec) -> None:
    """:raises ModelNotLoadable: the ranks do not compute what the module does."""
    probe.require_causal(str(spec.path))
    error = probe.error_of(model)
    if not error <= probe.tolerance:
        raise ModelNotLoadable(
            f"{spec.path}: its logits over {spec.tensor_parallel} ranks differ: {error:.2g}"
        )


def _read(spec: ModelSpec, device: Device, progress: Progress) -> _Source:
    """:raises ModelNotLoadable: with one line about the reason."""
    try:
        if holding_of(spec, device) is not None:
            read = low_bit.read(spec, device, progress)
            shape = low_bit.prepare(spec, read.module, read.holding)
            shapes.require_family(shape)
            shapes.require_whole_heads(shape)
            return _Source(read.module, shape, read.kind, read.holding)
        config = checkpoint.load_config(spec)
        kind = dtypes.choose_dtype(spec, config)
        module = checkpoint.load_module(spec, config, kind)
        module.eval().requires_grad_(requires_grad=False)
        context_length = checkpoint.context_length(spec, module)
        rope.freeze(module, context_length)
        shape = shapes.read(module, context_length)
        shapes.require_family(shape)
        shapes.require_whole_heads(shape)
        lean_published.note_values(spec, module, "it is held by several devices")
        module.set_attn_implementation("eager")
    except NotLean as reason:
        raise _not_for_several(spec, reason) from reason
    return _Source(module, shape, kind, None)


def _part(spec: ModelSpec, source: _Source, rank: int) -> Part:
    """:raises ModelNotLoadable: the model cannot be divided so."""
    part = Part(source.shape, rank, spec.tensor_parallel)
    try:
        part.check(source.holding.block if source.holding else 1)
    except NotLean as reason:
        raise _not_for_several(spec, reason) from reason
    return part


def _body(spec: ModelSpec, source: _Source, part: Part, weights: Weights, device: Device) -> Body:
    """:raises ModelNotLoadable: the device lacks what it takes, or multiplies wrongly."""
    shape = part.shape
    all_weights.widen_if_room(weights, device, source.kind)
    turnings = shapes.turnings(source.module, shape, device.torch_device)
    try:
        body = Body(shape, weights, turnings, ops_for(device, shape), device)
    except NotLean as reason:
        raise ModelNotLoadable(f"several devices: {reason}") from reason
    low_bit.check_products(body, spec.path)
    return body


def _not_for_several(spec: ModelSpec, reason: NotLean) -> ModelNotLoadable:
    return ModelNotLoadable(
        f"queue {spec.queue!r}: this model cannot be held by {spec.tensor_parallel} devices "
        f"({reason})"
    )


def _untold(share: float, what: str) -> None:
    """Do nothing: rank 0 reports progress."""
    del share, what


def _threads(spec: ModelSpec) -> int:
    """A rank's threads: ranks on a CPU share its cores."""
    threads = torch.get_num_threads()
    return max(1, threads // spec.tensor_parallel) if spec.device == "cpu" else threads
