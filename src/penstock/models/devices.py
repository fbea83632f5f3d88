"""What this machine has: devices, memory, matrix instructions."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch

from penstock.errors import DeviceNotFound
from penstock.models import cores

if TYPE_CHECKING:
    from penstock.models.spec import ModelSpec

_NAMES = {"xpu": "Intel GPU", "cuda": "NVIDIA GPU"}


def check(spec: ModelSpec) -> None:
    """Make sure that the spec's device is there.

    :raises DeviceNotFound: one line that says what is missing.
    """
    if spec.device == "cpu":
        return
    if spec.backend == "openvino":
        _check_openvino(spec)
        return
    library = cast("Any", torch.xpu if spec.device == "xpu" else torch.cuda)
    where = f"queue {spec.queue!r}: no {_NAMES[spec.device]}"
    if not library.is_available():
        built = torch.version.xpu if spec.device == "xpu" else torch.version.cuda
        missing = (
            "none is visible to torch"
            if built
            else f"torch {torch.__version__} has no {spec.device} support"
        )
        raise DeviceNotFound(f"{where}: {missing}")
    count = int(library.device_count())
    if (spec.device_index or 0) >= count:
        raise DeviceNotFound(
            f"{where} with index {spec.device_index}: there are {count}, counted from 0"
        )


def _check_openvino(spec: ModelSpec) -> None:
    """OpenVINO drives Intel GPUs itself, without torch."""
    if spec.device == "cuda":
        raise DeviceNotFound(f"queue {spec.queue!r}: OpenVINO does not run on NVIDIA GPUs")
    runtime: Any = importlib.import_module("penstock.models.openvino.runtime_library")
    names: list[str] = [
        name for name in runtime.openvino().Core().available_devices if name.startswith("GPU")
    ]
    if (spec.device_index or 0) >= len(names):
        raise DeviceNotFound(
            f"queue {spec.queue!r}: OpenVINO sees {len(names)} Intel GPUs"
            + (f", not one with index {spec.device_index}" if names else " (is the driver there?)")
        )


def torch_device(spec: ModelSpec) -> torch.device:
    """The spec's device in torch's terms."""
    if spec.device == "cpu":
        return torch.device("cpu")
    return torch.device(spec.device, spec.device_index or 0)


def free_bytes(device: torch.device | None = None) -> int:
    """Memory that can still be taken, of the machine or of a GPU."""
    if device is None or device.type == "cpu":
        return int(psutil.virtual_memory().available)
    library = cast("Any", torch.xpu if device.type == "xpu" else torch.cuda)
    if not library.is_available():  # a GPU that OpenVINO drives, most often with shared memory
        return int(psutil.virtual_memory().available)
    return int(library.mem_get_info(device)[0])


@cache
def has_amx() -> bool:
    """Whether this process may use AMX tiles (the CPU has them and the kernel grants them)."""
    cpu = cast("Any", torch.cpu)
    try:
        return bool(cpu._is_amx_tile_supported() and cpu._init_amx())  # noqa: SLF001 - nothing public says it
    except AttributeError:  # private; a torch without them is treated as a CPU without AMX
        return False


def set_threads(threads: int) -> int:
    """Use `threads` cores in torch, 0 for all that the process may use; returns how many."""
    count = threads or cores.usable()
    torch.set_num_threads(count)
    return count
