"""Devices to run a model on: one class for each kind, behind one interface."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import psutil

from penstock.errors import DeviceNotFound
from penstock.models.devices.cpu import Cpu, compute_alone, has_amx, set_threads
from penstock.models.devices.cuda import Cuda
from penstock.models.devices.xpu import Xpu

if TYPE_CHECKING:
    import torch

    from penstock.models.devices.device import Device
    from penstock.models.spec import ModelSpec

__all__ = [
    "check",
    "compute_alone",
    "device_of",
    "free_bytes",
    "has_amx",
    "set_threads",
    "torch_device",
]


def device_of(spec: ModelSpec, rank: int = 0) -> Device:
    """Return the device that a queue's name asks for, or that of another rank of the model."""
    index = (spec.device_index or 0) + rank
    if spec.device == "cuda":
        return Cuda(index)
    return Xpu(index) if spec.device == "xpu" else Cpu()


def check(spec: ModelSpec) -> None:
    """Check that the spec's device is available.

    :raises DeviceNotFound: with one line about what is missing.
    """
    if spec.backend == "openvino" and spec.device != "cpu":
        _check_openvino(spec)
        return
    for rank in range(spec.tensor_parallel):
        missing = device_of(spec, rank).missing()
        if missing is not None:
            raise DeviceNotFound(f"queue {spec.queue!r}: {missing}")


def _check_openvino(spec: ModelSpec) -> None:
    """OpenVINO drives Intel GPUs itself, without torch."""
    if spec.device == "cuda":
        raise DeviceNotFound(f"queue {spec.queue!r}: OpenVINO does not run on NVIDIA GPUs")
    runtime: Any = importlib.import_module("penstock.models.backends.openvino.runtime_library")
    names: list[str] = [
        name for name in runtime.openvino().Core().available_devices if name.startswith("GPU")
    ]
    if (spec.device_index or 0) >= len(names):
        raise DeviceNotFound(
            f"queue {spec.queue!r}: OpenVINO sees {len(names)} Intel GPUs"
            + (f", not one with index {spec.device_index}" if names else " (is the driver there?)")
        )


def torch_device(spec: ModelSpec) -> torch.device:
    """Return the spec's device as torch's."""
    return device_of(spec).torch_device


def free_bytes(device: torch.device | None = None) -> int:
    """Return the free memory of the machine or of a GPU, in bytes."""
    if device is None or device.type == "cpu":
        return Cpu().free_bytes()
    gpu = Xpu(device.index or 0) if device.type == "xpu" else Cuda(device.index or 0)
    if gpu.missing() is not None:  # a GPU driven by OpenVINO, usually with shared memory
        return int(psutil.virtual_memory().available)
    return gpu.free_bytes()
