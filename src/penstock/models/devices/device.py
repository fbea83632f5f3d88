"""The interface to devices that run models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Device(Protocol):
    """A CPU or one GPU, with torch's names."""

    kind: str
    """As in a queue's name: cpu, xpu, cuda."""

    collectives: str
    """torch.distributed's backend between such devices."""

    torch_device: torch.device

    @property
    def captures(self) -> bool:
        """Whether work can be captured as a graph and replayed."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether a kernel may start before the previous one has ended, and wait for it."""
        ...

    def missing(self) -> str | None:
        """Return what is missing for this device, as advice; None if it is available."""
        ...

    def describe(self) -> str:
        """Return its name, memory and driver in one line."""
        ...

    def free_bytes(self) -> int:
        """Return the free memory in bytes, including what torch has reserved but does not use."""
        ...

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Return how many bytes `work` needs at its peak, beyond what was allocated before."""
        ...

    def enter(self) -> None:
        """Make this the calling thread's device, on which kernels are launched."""
        ...

    def lacks_fp8(self) -> str | None:
        """Return why it cannot multiply FP8 with row scales; None if it can."""
        ...

    def reaches(self, away: int) -> bool:
        """Return whether its kernels can write into the memory of the device `away` after it."""
        ...

    def synchronize(self) -> None:
        """Wait until all submitted work is done."""
        ...

    def seed(self, number: int) -> None:
        """Seed torch's own generator of the device; only for random weights and tests."""
        ...

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """Return the type to compute in for a checkpoint of `stored_bytes` in `stored`."""
        ...

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Warm up `work` once, capture it, and return a function that replays it.

        It must use the same tensors each time and not wait for the device. Captures on one device
        share their memory: results of one are valid until another is replayed.
        """
        ...
