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
        """Nothing ever is."""
        return None

    def describe(self) -> str:
        """Memory; the CPU's name is the machine's business."""
        return f"{psutil.virtual_memory().total / 2**30:.0f} GiB"

    def free_bytes(self) -> int:
        """Memory that the system could still give."""
        return int(psutil.virtual_memory().available)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Not measured: the system swaps and shares, so a figure would promise nothing."""
        work()
        return 0

    def enter(self) -> None:
        """There is but one."""

    def lacks_fp8(self) -> str | None:
        """CPUs have no units for it."""
        return "a CPU multiplies no FP8"

    def reaches(self, away: int) -> bool:
        """Ranks on a CPU have no kernels that could."""
        del away
        return False

    def synchronize(self) -> None:
        """Work on a CPU is done when it returns."""

    def seed(self, number: int) -> None:
        """Seed torch's generator."""
        torch.default_generator.manual_seed(number)

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """CPUs without AMX multiply fp32 faster than bf16.

        Half-precision checkpoints are widened there as long as that leaves half of the free memory.
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
    """Whether this process may use AMX tiles (the CPU has them and the kernel grants them)."""
    library = cast("Any", torch.cpu)
    try:
        return bool(library._is_amx_tile_supported() and library._init_amx())  # noqa: SLF001 - nothing public says it
    except AttributeError:  # private; a torch without them is treated as a CPU without AMX
        return False


def set_threads(threads: int) -> int:
    """Use `threads` cores in torch, 0 for all that the process may use; returns how many."""
    count = threads or cpu_cores.usable()
    torch.set_num_threads(count)
    return count


def compute_alone() -> None:
    """Let torch use this thread alone for what this thread computes.

    OpenMP keeps the number by thread, torch the one that new threads begin with: that one is set
    back, from a thread of its own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    restore = threading.Thread(target=torch.set_num_threads, args=(before,), name="torch-threads")
    restore.start()
    restore.join()
