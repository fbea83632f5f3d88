"""The CPU."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch

from penstock.models.devices import cpu_cores

if TYPE_CHECKING:
    from collections.abc import Callable


class Cpu:
    """See `penstock.models.devices.device.Device`."""

    kind = "cpu"
    collectives = "gloo"
    captures = False
    overlaps = False

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")

    def missing(self) -> str | None:
        """None: a CPU is always available."""
        return None

    def describe(self) -> str:
        """Return its memory in one line; the CPU's name is reported elsewhere."""
        return f"{psutil.virtual_memory().total / 2**30:.0f} GiB"

    def free_bytes(self) -> int:
        """Return the memory in bytes that the system could still allocate."""
        return int(psutil.virtual_memory().available)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Return 0: not measured, because the system swaps and shares."""
        work()
        return 0

    def enter(self) -> None:
        """Do nothing: there is only one."""

    def lacks_fp8(self) -> str | None:
        """Return the reason: CPUs have no FP8 units."""
        return "a CPU multiplies no FP8"

    def reaches(self, away: int) -> bool:
        """False: a CPU's ranks have no kernels that could."""
        del away
        return False

    def synchronize(self) -> None:
        """Do nothing: work on a CPU is done when it returns."""

    def seed(self, number: int) -> None:
        """Seed torch's generator."""
        torch.default_generator.manual_seed(number)

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """Return fp32 for CPUs without AMX, which multiply it faster than bf16.

        Half-precision checkpoints are widened as long as that leaves half of the free memory.
        """
        if stored == torch.float32:
            return stored
        if has_amx():
            return torch.bfloat16
        return torch.float32 if 2 * stored_bytes < self.free_bytes() // 2 else torch.bfloat16

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """:raises NotImplementedError: a CPU has no graphs."""
        raise NotImplementedError("a CPU captures no graphs")


@cache
def has_amx() -> bool:
    """Return whether this process may use AMX tiles (the CPU has them and the kernel grants them)."""
    library = cast("Any", torch.cpu)
    try:
        return bool(library._is_amx_tile_supported() and library._init_amx())  # noqa: SLF001 - no public equivalent
    except AttributeError:  # private; without them the CPU counts as one without AMX
        return False


def set_threads(threads: int) -> int:
    """Use `threads` cores in torch, 0 for all that the process may use; return how many."""
    count = threads or cpu_cores.usable()
    torch.set_num_threads(count)
    return count


def compute_alone() -> None:
    """Make torch use only this thread for what this thread computes.

    OpenMP has one number for each thread, torch one that new threads start with: the latter is
    reset from a separate thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    restore = threading.Thread(target=torch.set_num_threads, args=(before,), name="torch-threads")
    restore.start()
    restore.join()
