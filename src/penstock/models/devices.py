"""What this machine has: devices, memory, matrix instructions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch

from penstock.errors import DeviceNotFound

if TYPE_CHECKING:
    from penstock.models.spec import ModelSpec

_NAMES = {"xpu": "Intel GPU", "cuda": "NVIDIA GPU"}


def check(spec: ModelSpec) -> None:
    """Make sure that the spec's device is there.

    :raises DeviceNotFound: one line that says what is missing.
    """
    if spec.device == "cpu":
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
    count = threads or len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1
    torch.set_num_threads(count)
    return count
