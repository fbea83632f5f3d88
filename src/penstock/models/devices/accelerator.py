"""What all GPUs have in common in torch: its accelerator interface, graphs, memory."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_WARM_UPS = 2
"""Runs before a capture: kernels are compiled, and libraries allocate their workspaces."""


class Accelerator:
    """See `penstock.models.devices.device.Device`. `library` is torch.cuda or torch.xpu.

    The two have the same functions; subclasses have the differences.
    """

    kind: str
    collectives: str
    maker: str

    def __init__(self, library: Any, index: int) -> None:
        self.library = library
        self.index = index
        self.torch_device = torch.device(self.kind, index)
        self._pool: Any = None
        self._stream: Any = None

    @property
    def captures(self) -> bool:
        """See `Device.captures`."""
        return hasattr(self.library, self.graph_class)

    @property
    def overlaps(self) -> bool:
        """False: unknown for GPUs in general."""
        return False

    graph_class: str
    graph_options: ClassVar[dict[str, Any]] = {}

    def built(self) -> bool:
        """Return whether this torch can drive such GPUs at all."""
        raise NotImplementedError

    def advice(self) -> str:
        """Return what to do if torch cannot, or sees none."""
        raise NotImplementedError

    def missing(self) -> str | None:
        """Return what is missing for this device, as advice; None if it is available."""
        if not self.library.is_available():
            why = (
                "none is visible to torch"
                if self.built()
                else f"torch {torch.__version__} has no {self.kind} support"
            )
            return f"no {self.maker} GPU: {why}; {self.advice()}"
        count = int(self.library.device_count())
        if self.index >= count:
            return f"no {self.maker} GPU with index {self.index}: there are {count}, counted from 0"
        return None

    def describe(self) -> str:
        """Return its name and memory in one line."""
        properties = self.library.get_device_properties(self.index)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"

    def free_bytes(self) -> int:
        """Return the free memory in bytes, including what torch has reserved but does not use."""
        self.synchronize()
        gc.collect()
        self.library.empty_cache()
        free, _ = self.library.mem_get_info(self.torch_device)
        return int(free)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Return how many bytes `work` needs at its peak, beyond what was allocated before."""
        self.synchronize()
        self.library.empty_cache()
        before = int(self.library.memory_reserved(self.torch_device))
        self.library.reset_peak_memory_stats(self.torch_device)
        work()
        self.synchronize()
        return max(0, int(self.library.max_memory_reserved(self.torch_device)) - before)

    def enter(self) -> None:
        """Make this the calling thread's device, on which kernels are launched."""
        self.library.set_device(self.index)

    def lacks_fp8(self) -> str | None:
        """Return why a small FP8 product with row scales fails; None if it does not."""
        device, library = self.torch_device, cast("Any", torch)
        try:
            values = torch.ones((16, 16), device=device).to(torch.float8_e4m3fn)
            scales = torch.ones((16, 1), device=device)
            library._scaled_mm(values, values.t(), scales, scales.t(), out_dtype=torch.bfloat16)  # noqa: SLF001 - its public face came with torch 2.10
            self.synchronize()
        except (RuntimeError, AttributeError) as error:
            why = str(error).splitlines()[0]
            return f"torch {torch.__version__} multiplies no FP8 on {self.describe()}: {why}"
        return None

    def reaches(self, away: int) -> bool:
        """False: unknown for GPUs in general."""
        del away
        return False

    def synchronize(self) -> None:
        """Wait until all submitted work is done."""
        self.library.synchronize(self.torch_device)

    def seed(self, number: int) -> None:
        """Seed torch's own generator of the device."""
        with self.library.device(self.index):
            self.library.manual_seed(number)

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """Return the checkpoint's own type."""
        del stored_bytes
        return stored

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Warm up `work`, capture it, and return a function that replays it."""
        if self._pool is None:
            self._pool = self.library.graph_pool_handle()
            self._stream = self.library.Stream(device=self.torch_device)
        current = self.library.current_stream(self.torch_device)
        self._stream.wait_stream(current)
        with self.library.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        current.wait_stream(self._stream)
        self.synchronize()
        graph = getattr(self.library, self.graph_class)()
        with self.library.graph(graph, pool=self._pool, stream=self._stream, **self.graph_options):
            work()
        return graph.replay
