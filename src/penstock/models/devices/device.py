"""The one interface to what a model runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Device(Protocol):
    """A CPU or one GPU, by torch's names."""

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
        """Whether a kernel may begin before the one it follows has ended, and wait for it."""
        ...

    def missing(self) -> str | None:
        """What is missing for this device, in words to act on; None where it is there."""
        ...

    def describe(self) -> str:
        """Its name, memory and driver in one line."""
        ...

    def free_bytes(self) -> int:
        """Memory that can still be taken, what torch holds without using it included."""
        ...

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Memory that `work` needs at its height beyond what was held before it."""
        ...

    def enter(self) -> None:
        """Make this the calling thread's device: kernels are launched on that."""
        ...

    def lacks_fp8(self) -> str | None:
        """Why it cannot multiply FP8 with scales of rows; None where it can."""
        ...

    def reaches(self, away: int) -> bool:
        """Whether its kernels can write into the memory of the one `away` places after it."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was asked of the device is done."""
        ...

    def seed(self, number: int) -> None:
        """Seed torch's own generator of the device: for random weights and tests alone."""
        ...

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """What to compute in a checkpoint of `stored_bytes` that is held in `stored`."""
        ...

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Run `work` once to warm it up, capture it, and return what replays it.

        It must work on the same tensors each time and not wait for the device. Captures of one
        device share their memory: what one leaves in it lasts until another is replayed.
        """
        ...
