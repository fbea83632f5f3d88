"""bigdl-llm's sym_int4 on a GPU: the same blocks, by the lean decoder's own kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models import checkpoint, rope
from penstock.models.assembled import Assembled
from penstock.models.lean import shape as shapes
from penstock.models.lean import weights as all_weights
from penstock.models.lean.body import Body
from penstock.models.lean.linear import Int4, from_blocks
from penstock.models.lean.loading import ops_for
from penstock.models.lean.model import PipelinedLean
from penstock.models.lean.shape import NotLean
from penstock.models.libraries import transformers
from penstock.models.probe import Probe
from penstock.models.spec import DEFAULT_LOW_BIT
from penstock.models.weights.matrices import Checkpoint

if TYPE_CHECKING:
    from penstock.models.assembled import Progress
    from penstock.models.devices.device import Device
    from penstock.models.lean.shape import Shape
    from penstock.models.spec import ModelSpec

_TOLERANCE = 0.1


def load(spec: ModelSpec, device: Device, progress: Progress) -> Assembled:
    """Load a checkpoint, quantised as bigdl-llm does it, or a folder that `save_low_bit` wrote.

    Quantising and the reference of the probe run on the CPU, so that the device holds nothing but
    the blocks.

    :raises ModelNotLoadable: with one line that says why.
    """
    module, stored = read(spec, progress)
    kind = device.compute_dtype(stored, 0)
    try:
        model, module = _build(spec, module, device, kind, progress)
    except NotLean as reason:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: no 4-bit weights on {spec.device} for this model ({reason}); "
            f"serve it on cpu, or with backend = 'transformers'"
        ) from reason
    progress(0.85, "trying the model")
    error = Probe(module, torch.device("cpu"), _TOLERANCE).error_of(model)
    if not error <= _TOLERANCE:
        raise ModelNotLoadable(f"{spec.path}: its logits in 4 bit are wrong by {error:.2g}")
    return Assembled(
        model=model,
        backend=spec.backend,
        format=DEFAULT_LOW_BIT,
        architecture=type(module).__name__,
        parameters=checkpoint.parameters(module),
        weights_bytes=model.weights.nbytes,
    )


def read(spec: ModelSpec, progress: Progress) -> tuple[Any, torch.dtype]:
    """The module on the CPU, its weights not quantised yet, and the type that they were stored in.

    :raises ModelNotLoadable: with one line that says why.
    """
    if (spec.format or DEFAULT_LOW_BIT) != DEFAULT_LOW_BIT:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: format = {spec.format!r}: a GPU holds {DEFAULT_LOW_BIT}; "
            f"serve the model on cpu, or with another format"
        )
    config = checkpoint.load_config(spec)
    progress(0.05, f"reading {spec.path}")
    if spec.low_bit_folder:
        module = _widened(spec, config)
        stored = torch.bfloat16
    else:
        stored = checkpoint.dtype(spec, config)
        module = checkpoint.load_module(spec, config, stored)
    return module, stored


def prepare(spec: ModelSpec, module: Any) -> Shape:
    """Ready a module on the CPU for `weights.quantized`.

    :raises NotLean: the module is not of the family.
    """
    module.eval().requires_grad_(requires_grad=False)
    context_length = checkpoint.context_length(spec, module)
    rope.freeze(module, context_length)
    shape = shapes.read(module, context_length)
    all_weights.untie(module)
    module.set_attn_implementation("eager")
    return shape


@torch.inference_mode()
def _build(
    spec: ModelSpec, module: Any, device: Device, kind: torch.dtype, progress: Progress
) -> tuple[PipelinedLean, Any]:
    """The model on its device, and the module, whose matrices are what the blocks stand for."""
    shape = prepare(spec, module)
    ops = ops_for(device, shape)
    adopted = all_weights.adopt(module, shape)
    weights = all_weights.quantized(adopted, device.torch_device, kind, progress)
    all_weights.widen_if_room(weights, device, kind)
    rotary = shapes.rotary_tables(module, shape, device.torch_device)
    return PipelinedLean(Body(shape, weights, rotary, ops, device)), module


def _widened(spec: ModelSpec, config: Any) -> Any:
    """A low-bit folder as a module in fp16.

    In fp16 a block's largest value is exact, and with it its scale: quantised anew, the blocks are
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
