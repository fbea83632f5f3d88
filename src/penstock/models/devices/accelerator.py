"""What GPUs of all makers share in torch: its accelerator interface, graphs, memory."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_WARM_UPS = 2
"""Runs before a capture: kernels are compiled, libraries take their workspaces."""


class Accelerator:
    """See `penstock.models.devices.device.Device`. `library` is torch.cuda or torch.xpu.

    The two have the same functions; what differs is in a subclass.
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
        """Whether work can be captured as a graph and replayed."""
        return hasattr(self.library, self.graph_class)

    @property
    def overlaps(self) -> bool:
        """Not known of GPUs in general."""
        return False

    graph_class: str
    graph_options: ClassVar[dict[str, Any]] = {}

    def built(self) -> bool:
        """Whether this torch can drive such GPUs at all."""
        raise NotImplementedError

    def advice(self) -> str:
        """What to do where torch cannot, or sees none."""
        raise NotImplementedError

    def missing(self) -> str | None:
        """What is missing for this device, in words to act on; None where it is there."""
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
        """Its name and memory in one line."""
        properties = self.library.get_device_properties(self.index)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"

    def free_bytes(self) -> int:
        """Memory that can still be taken, what torch holds without using it included."""
        self.synchronize()
        gc.collect()
        self.library.empty_cache()
        free, _ = self.library.mem_get_info(self.torch_device)
        return int(free)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Memory that `work` needs at its height beyond what was held before it."""
        self.synchronize()
        self.library.empty_cache()
        before = int(self.library.memory_reserved(self.torch_device))
        self.library.reset_peak_memory_stats(self.torch_device)
        work()
        self.synchronize()
        return max(0, int(self.library.max_memory_reserved(self.torch_device)) - before)

    def enter(self) -> None:
        """Make this the calling thread's device: kernels are launched on that."""
        self.library.set_device(self.index)

    def lacks_fp8(self) -> str | None:
        """Why a small product of FP8 with scales of rows fails; None where it does not."""
        place, library = self.torch_device, cast("Any", torch)
        try:
            values = torch.ones((16, 16), device=place).to(torch.float8_e4m3fn)
            scales = torch.ones((16, 1), device=place)
            library._scaled_mm(values, values.t(), scales, scales.t(), out_dtype=torch.bfloat16)  # noqa: SLF001 - its public face came with torch 2.10
            self.synchronize()
        except (RuntimeError, AttributeError) as error:
            why = str(error).splitlines()[0]
            return f"torch {torch.__version__} multiplies no FP8 on {self.describe()}: {why}"
        return None

    def reaches(self, away: int) -> bool:
        """Not known of GPUs in general."""
        del away
        return False

    def synchronize(self) -> None:
        """Wait until all that was asked of the device is done."""
        self.library.synchronize(self.torch_device)

    def seed(self, number: int) -> None:
        """Seed torch's own generator of the device."""
        with self.library.device(self.index):
            self.library.manual_seed(number)

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """The checkpoint's own."""
        del stored_bytes
        return stored

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Run `work` to warm it up, capture it, and return what replays it."""
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
