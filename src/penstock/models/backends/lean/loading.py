"""Builds a lean model from a module of Transformers, if it can compute what the module does."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from penstock.models.backends.lean import adoption, padding
from penstock.models.backends.lean import shape as shapes
from penstock.models.backends.lean.body import Body
from penstock.models.backends.lean.model import LeanModel, PipelinedLean
from penstock.models.backends.lean.operations.native_attention import NativeAttention
from penstock.models.backends.lean.operations.overlap import overlap_of
from penstock.models.backends.lean.operations.torch_ops import TorchOps
from penstock.models.backends.lean.shape import NotLean
from penstock.models.backends.native import attention as native
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from penstock.models.backends.lean.operations.ops import Ops
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.devices.device import Device
    from penstock.models.loading.probe import Probe

logger = logging.getLogger(__name__)


def ops_for(device: Device, shape: Shape) -> Ops:
    """Return Triton's operations on a GPU; on a CPU torch's, with our own attention if possible.

    :raises NotLean: Triton is not installed for the device.
    """
    if device.kind == "cpu":
        has_attention = native.is_available() and native.fits(shape.sizes.head_size)
        return TorchOps(NativeAttention() if has_attention and _is_plain(shape) else None)
    if find_spec("triton") is None:
        raise NotLean("Triton is not installed")
    from penstock.models.backends.lean.operations.triton_ops import TritonOps  # noqa: PLC0415 - needs Triton

    return TritonOps(overlap_of(device))


def _is_plain(shape: Shape) -> bool:
    """Whether the native library's attention is the model's."""
    try:
        shapes.require_family(shape)
        shapes.require_whole_heads(shape)
    except NotLean:
        return False
    return True


def build(module: Any, device: Device, context_length: int) -> PipelinedLean:
    """Return the lean model of a module that is on its device already; they share the weights.

    :raises NotLean: it does not compute what the module does.
    """
    return PipelinedLean(_body(module, device, shapes.read(module, context_length)))


def _body(module: Any, device: Device, shape: Shape) -> Body:
    ops = ops_for(device, shape)
    weights = padding.padded(adoption.adopt(module, shape), shape)
    turnings = shapes.turnings(module, shape, device.torch_device)
    return Body(shape, weights, turnings, ops, device)


def _shape_for(module: Any, device: Device, context_length: int) -> Shape:
    """The shape of a module; on a CPU only the Llama family's has been measured to gain.

    :raises NotLean: it is another's.
    """
    shape = shapes.read(module, context_length)
    if device.kind == "cpu":
        shapes.require_family(shape)
        shapes.require_whole_heads(shape)
    return shape


@torch.inference_mode()
def attempt(module: Any, device: Device, context_length: int, probe: Probe) -> LeanModel | None:
    """Return the lean model if it gives the module's own logits, else None.

    On a CPU there is nothing to pipeline, because the device is the host.
    """
    name = type(module).__name__
    kind = LeanModel if device.kind == "cpu" else PipelinedLean
    try:
        model = kind(_body(module, device, _shape_for(module, device, context_length)))
        error = probe.error_of(model)
    except NotLean as reason:
        level = logging.INFO if device.kind == "cpu" else logging.WARNING
        logger.log(level, "%s: not for the lean decoder: %s", name, reason)
        return None
    except Exception as failure:  # noqa: BLE001 - a driver's or compiler's fault has a fallback
        logger.warning("%s: no lean decoder: %s", name, checkpoint.first_line(failure))
        return None
    if error > probe.tolerance:
        logger.warning("%s: no lean decoder: logits differ by %.2g", name, error)
        return None
    return model
