"""Checkpoints that were published quantised, on a GPU: the lean decoder computes with their codes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.architecture.description import Experts
from penstock.models.backends.lean import adoption, joined, padding
from penstock.models.backends.lean import shape as shapes
from penstock.models.backends.lean import weights as all_weights
from penstock.models.backends.lean.body import Body
from penstock.models.backends.lean.loading import ops_for
from penstock.models.backends.lean.model import PipelinedLean
from penstock.models.backends.lean.products import published as codes
from penstock.models.backends.lean.products.linear import Dense, Fp8Blocks, Int4
from penstock.models.backends.lean.shape import NotLean
from penstock.models.backends.lean.weights import Weights
from penstock.models.backends.native.mixtures.expert_packing import located
from penstock.models.backends.transformers import dtypes, rope
from penstock.models.catalogue import quantisation
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint, published
from penstock.models.loading.assembled import Assembled
from penstock.models.loading.probe import Probe
from penstock.models.vision.loading import has_plain_images
from penstock.models.weights import q4_0
from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.matrices import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock.models.backends.lean.joined import Which
    from penstock.models.backends.lean.products.linear import Linear, Matrices
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.lean.weights import ExpertWeights, LayerWeights
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec

logger = logging.getLogger(__name__)

_TOLERANCE: Final = 0.1


def applies(spec: ModelSpec) -> bool:
    """Whether a checkpoint's own codes are to be computed with, on a GPU."""
    return (
        spec.device != "cpu"
        and spec.format is None
        and quantisation.is_stated(read_config(spec.path))
    )


def attempt(spec: ModelSpec, module: Any, device: Device, progress: Progress) -> Assembled | None:
    """Return a model that holds a module's matrices as they were published.

    `module` has their values, and stays on the CPU: it is the reference. None if it was not published
    quantised; or with one line in the log, if the model is to be computed with these values.
    """
    if not applies(spec):
        return None
    try:
        made, why = _tried(spec, module, device, progress), "its logits differ"
    except NotLean as reason:
        made, why = None, str(reason)
    except Exception as failure:  # noqa: BLE001 - a driver's or compiler's fault has a fallback
        made, why = None, checkpoint.first_line(failure)
    if made is None:
        note_values(spec, module, why)
    return made


def note_values(spec: ModelSpec, module: Any, why: str) -> None:
    """Log that a module's published codes are computed as values, if it has any."""
    label = published.noted(module).label
    if label:
        logger.warning("%s: its codes (%s) are computed as values: %s", spec.queue, label, why)


@torch.inference_mode()
def _tried(spec: ModelSpec, module: Any, device: Device, progress: Progress) -> Assembled | None:
    """None: its logits are not the module's.

    :raises NotLean: the lean decoder does not compute the module, or none of its codes.
    """
    if not has_plain_images(spec):
        raise NotLean("its images are not for the lean decoder")
    kind: torch.dtype = module.dtype
    module.eval().requires_grad_(requires_grad=False)
    context_length = checkpoint.context_length(spec, module)
    rope.freeze(module, context_length)
    shape = shapes.read(module, context_length)
    ops = ops_for(device, shape)
    holder = _Holder(Checkpoint(spec.path), shape, device, kind)
    weights = holder.weights(adoption.adopt(module, shape), progress)
    if not holder.kept:
        raise NotLean("no kernel here computes with such codes")
    weights = padding.padded(weights, shape)
    all_weights.widen_if_room(weights, device, kind)
    turnings = shapes.turnings(module, shape, device.torch_device)
    model = PipelinedLean(Body(shape, weights, turnings, ops, device))
    progress(0.85, "trying the model")
    probe = Probe(module, torch.device("cpu"), _TOLERANCE)
    probe.require_causal(str(spec.path))
    if not probe.error_of(model) <= probe.tolerance:
        return None
    values = published.noted(module)
    others = (dtypes.NAMES[kind],) if holder.as_values else ()
    kept = Kept(values.label, others, values.error if holder.as_values else 0.0)
    return Assembled(
        model=model,
        backend=spec.backend,
        format=kept.form,
        architecture=type(module).__name__,
        parameters=checkpoint.parameters(module),
        weights_bytes=model.weights.nbytes,
        running="lean",
        kept=kept,
    )


class _Holder:
    """Puts a decoder's weights on a device: codes as the checkpoint has them, all else in `kind`.

    `kept` counts matrices that are held as they were published, `as_values` those that are not.
    """

    def __init__(self, stored: Checkpoint, shape: Shape, device: Device, kind: torch.dtype) -> None:
        self._stored = stored
        self._shape = shape
        self._place, self._kind = device.torch_device, kind
        self._has_fp8 = device.lacks_fp8() is None
        self.kept = self.as_values = 0

    def weights(self, adopted: Weights, progress: Progress) -> Weights:
        """All of them. `adopted` are those of a module that has the values."""
        layers: list[LayerWeights] = []
        for index, layer in enumerate(adopted.layers):
            progress(0.3 + 0.5 * index / len(adopted.layers), "reading codes")
            layers.append(self._layer(index, layer))
        embeddings = adopted.embeddings.to(self._place, self._kind)
        norm, head = adopted.norm.to(self._place, self._kind), adopted.head
        assert isinstance(head, Dense)  # noqa: S101 - `adopt` makes no other
        if head.weight.data_ptr() == adopted.embeddings.data_ptr():
            return Weights(embeddings, layers, norm, Dense(embeddings, None))
        name = f"{self._shape.model.head.name}.weight"
        return Weights(embeddings, layers, norm, self._linear([name], head))

    def _layer(self, index: int, layer: LayerWeights) -> LayerWeights:
        form, hidden = self._shape.model.layers[index], self._shape.sizes.hidden_size
        named = {
            one.which: [f"{name}.weight" for name, _ in one.matrices]
            for one in joined.of_layer(form, hidden)
        }

        def hold(which: Which, linear: Linear) -> Linear:
            return self._linear(named[which], linear, of_heads=which == "out")

        def hold_experts(experts: ExpertWeights) -> ExpertWeights:
            assert isinstance(form.mlp, Experts)  # noqa: S101 - whose weights these are
            gate_up, down = self._matrices(form.mlp, experts)
            return experts.to(self._place, self._kind, gate_up, down)

        return all_weights.placed_layer(layer, self._place, self._kind, hold, hold_experts)

    def _linear(self, names: Sequence[str], linear: Linear, *, of_heads: bool = False) -> Linear:
        """Some matrices with one input, which `linear` has the values of.

        `of_heads`: the input is that of attention.
        """
        assert isinstance(linear, Dense)  # noqa: S101 - `adopt` makes no other
        bias = None if linear.bias is None else linear.bias.to(self._place, self._kind)
        made = self._read(names, bias)
        if made is not None and of_heads and self._shape.is_padded and padding.is_cut(made):
            made = None
        if self._counted(names, made is not None and _shape_of(made) == linear.weight.shape):
            assert made is not None  # noqa: S101 - it was counted
            return made
        return Dense(linear.weight.to(self._place, self._kind), bias)

    def _read(
        self, names: Sequence[str], bias: torch.Tensor | None, *, of_expert: bool = False
    ) -> Int4 | Fp8Blocks | None:
        if not all(name in self._stored.matrices for name in names):
            return None
        parts = [self._stored.stored(name) for name in names]
        made = codes.joined(parts, bias, self._place, of_expert=of_expert)
        return None if isinstance(made, Fp8Blocks) and not self._has_fp8 else made

    def _counted(self, names: Sequence[str], kept: object) -> bool:
        """Count matrices that are codes in the checkpoint, and return whether they are held as such."""
        if kept:
            self.kept += 1
        elif any(name in self._stored.matrices for name in names):
            self.as_values += 1
        return bool(kept)

    def _matrices(self, form: Experts, dense: ExpertWeights) -> Iterator[Matrices]:
        """Yield gates with ups, and downs, of all experts."""
        named, count = located(form, self._stored).matrices, form.routing.experts
        for each, together, values in (
            ((named.gate, named.up), named.together, dense.gate_up),
            ((named.down,), named.down_together, dense.down),
        ):
            assert isinstance(values, torch.Tensor)  # noqa: S101 - `adopt` makes no other
            names = [f"{name.format(0)}.weight" for name in each] + [together]
            if self._stored.has(f"{together}_blocks") and not values.shape[-1] % q4_0.BLOCK:
                made = codes.mxfp4(
                    self._stored.tensor(f"{together}_blocks"),
                    self._stored.tensor(f"{together}_scales"),
                    self._place,
                )
            elif dense.interleaved or names[0] not in self._stored.matrices:
                made = None
            else:
                made = codes.stacked(
                    [
                        self._read(
                            [f"{name.format(number)}.weight" for name in each], None, of_expert=True
                        )
                        for number in range(count)
                    ]
                )
            if self._counted(names, made is not None and _shape_of(made) == values.shape):
                assert made is not None  # noqa: S101 - it was counted
                yield made
            else:
                yield values.to(self._place, self._kind)


def _shape_of(made: Int4 | Fp8Blocks) -> tuple[int, ...]:
    """Of the weights."""
    return tuple(made.weight.shape) if isinstance(made, Fp8Blocks) else made.shape
