"""bigdl-llm's sym_int4 and FP8 on a GPU, by the lean decoder's own kernels."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends.lean import adoption, padding
from penstock.models.backends.lean import shape as shapes
from penstock.models.backends.lean import weights as all_weights
from penstock.models.backends.lean.body import Body
from penstock.models.backends.lean.loading import ops_for
from penstock.models.backends.lean.model import PipelinedLean
from penstock.models.backends.lean.products import fp8_check
from penstock.models.backends.lean.products.linear import Int4, from_blocks
from penstock.models.backends.lean.products.weight_formats import FP8, SYM_INT4, holding_of
from penstock.models.backends.lean.shape import NotLean
from penstock.models.backends.transformers import rope
from penstock.models.loading import checkpoint, published
from penstock.models.loading.assembled import Assembled
from penstock.models.loading.libraries import transformers
from penstock.models.loading.probe import Probe
from penstock.models.spec import DEFAULT_LOW_BIT
from penstock.models.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.backends.lean.products.weight_formats import Holding
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.lean.weights import Weights
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec

_TOLERANCE = 0.1
_ROUNDINGS = 2.0  # times what the module loses by rounding
_UNITS = 0.1  # of a row's outputs: matrix units sum up in fewer bits, an H200's to 0.024


def load(spec: ModelSpec, device: Device, progress: Progress) -> Assembled:
    """Load a checkpoint, quantised as it is read, or a folder that `save_low_bit` wrote.

    The reference of the probe runs on the CPU, so that the device holds nothing but the weights.

    :raises ModelNotLoadable: with one line about the reason.
    """
    source = read(spec, device, progress)
    module = source.module
    try:
        model = _build(spec, source, device, progress)
    except NotLean as reason:
        held, other = source.holding.format, "on cpu, or with format = 'bf16'"
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: no {held} on {spec.device} for this model ({reason}); "
            f"serve it {other if source.holding is SYM_INT4 else other.removeprefix('on cpu, or ')}"
        ) from reason
    progress(0.85, "trying the model")
    probe = probe_of(module, model.weights, source.holding)
    error = probe.error_of(model)
    if not error <= probe.tolerance:
        raise ModelNotLoadable(
            f"{spec.path}: its logits in {source.holding.format} are wrong by {error:.2g}"
        )
    return Assembled(
        model=model,
        backend=spec.backend,
        format=source.holding.format,
        architecture=type(module).__name__,
        parameters=checkpoint.parameters(module),
        weights_bytes=model.weights.nbytes,
        running="lean",
        kept=published.noted(module),
    )


@dataclass(frozen=True, slots=True)
class Source:
    """A module on the CPU, its weights not quantised yet. `kind` is what to compute in."""

    module: Any
    holding: Holding
    kind: torch.dtype


def read(spec: ModelSpec, device: Device, progress: Progress) -> Source:
    """Read what is to be quantised.

    :raises ModelNotLoadable: with one line about the reason.
    """
    holding = holding_of(spec, device)
    assert holding is not None  # noqa: S101 - the caller has seen that it is no plain type
    config = checkpoint.load_config(spec)
    progress(0.05, f"reading {spec.path}")
    if spec.low_bit_folder:
        return Source(_widened(spec, config), holding, device.compute_dtype(torch.bfloat16, 0))
    if holding is FP8:  # matrix units give its products in bf16
        return Source(checkpoint.load_module(spec, config, torch.bfloat16), holding, torch.bfloat16)
    stored = checkpoint.dtype(spec, config)
    module = checkpoint.load_module(spec, config, stored)
    return Source(module, holding, device.compute_dtype(stored, 0))


def probe_of(module: Any, weights: Weights, holding: Holding) -> Probe:
    """The probe of a model whose matrices the module has, as `weights.quantized` leaves it.

    Activations in FP8 are rounded so coarsely that two right ways to compute a deep model end up
    with other roundings, as far apart as these are from no rounding. So the model must give the
    unrounded logits about as well as the module does once its inputs are rounded: a coarse bound,
    beside which `check_products` holds each product to a tight one.
    """
    probe = Probe(module, torch.device("cpu"), _TOLERANCE)
    if holding is FP8:
        fp8_check.round_inputs(module, weights, shapes.read(module, 1))
        probe.tolerance += _ROUNDINGS * probe.drift()
    return probe


def check_products(body: Body, where: Path) -> None:
    """Make sure that a device multiplies the matrices that it holds in FP8 as the reference does.

    :raises ModelNotLoadable: it does not.
    """
    body.device.enter()
    error = fp8_check.product_error(body.ops, body.weights, body.kind)
    if not error <= _UNITS:
        raise ModelNotLoadable(
            f"{where}: {body.device.describe()} multiplies FP8 wrongly, by {error:.2g}"
        )


def prepare(spec: ModelSpec, module: Any, holding: Holding) -> Shape:
    """Ready a module on the CPU for `weights.quantized`.

    :raises NotLean: these formats are not computed for the module.
    """
    module.eval().requires_grad_(requires_grad=False)
    context_length = checkpoint.context_length(spec, module)
    rope.freeze(module, context_length)
    shape = shapes.read(module, context_length)
    if holding.head:
        adoption.untie(module)
    module.set_attn_implementation("eager")
    return shape


@torch.inference_mode()
def _build(spec: ModelSpec, source: Source, device: Device, progress: Progress) -> PipelinedLean:
    """The model on its device; the module then has the matrices that the model's stand for."""
    module, kind, holding = source.module, source.kind, source.holding
    shape = prepare(spec, module, holding)
    ops = ops_for(device, shape)
    adopted = adoption.adopt(module, shape)
    weights = all_weights.quantized(adopted, device.torch_device, kind, holding, progress)
    weights = padding.padded(weights, shape)
    all_weights.widen_if_room(weights, device, kind)
    turnings = shapes.turnings(module, shape, device.torch_device)
    body = Body(shape, weights, turnings, ops, device)
    check_products(body, spec.path)
    return PipelinedLean(body)


def _widened(spec: ModelSpec, config: Any) -> Any:
    """A low-bit folder as a module in fp16.

    In fp16 a block's largest value is exact, and with it its scale: quantised again, the blocks are
    those of the folder, bit for bit.

    :raises ModelNotLoadable: weights are missing, or are in another format.
    """
    stored = Checkpoint(spec.path)
    empty = importlib.import_module("accelerate").init_empty_weights
    with empty(include_buffers=False):
        module = transformers().AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    state: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        tensor = stored.tensor(name)
        if tensor.dtype == torch.uint8:
            rows, columns = parameter.shape
            try:
                packed, scales = from_blocks(tensor, rows, columns)
            except (ValueError, RuntimeError) as error:
                raise ModelNotLoadable(f"{spec.path}: {name} is not {DEFAULT_LOW_BIT}") from error
            tensor = Int4(packed, scales, None).widen(torch.float16)
        state[name] = tensor.to(torch.float16)
    module.load_state_dict(state, strict=False, assign=True)
    return module
