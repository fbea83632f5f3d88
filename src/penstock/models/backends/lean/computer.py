"""What a lean model drives, whatever devices compute it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from penstock.engine.pipelining import Flight
    from penstock.models.backends.lean.adapters import StepAdapters
    from penstock.models.backends.lean.graphs.step_rows import Packed


class Computer(Protocol):
    """What a lean model drives: one device's body, or those of several together."""

    def allocate(self, blocks: int, sequences: int) -> None:
        """Make room for `blocks` blocks of KV cache and for `sequences` that run at once.

        :raises MemoryError: a device has not enough memory.
        """
        ...

    def capture(self) -> None:
        """Capture the steps' graphs now, so that no request waits for them.

        :raises torch.OutOfMemoryError: a device has not enough memory.
        """
        ...

    def note(self, row: int, blocks: Sequence[int]) -> None:
        """Write a sequence's block table into its row."""
        ...

    def compute(self, packed: Packed, *, hidden: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (rows, vocab) float32 of what is wanted, and hidden states if they are."""
        ...

    def launch(
        self,
        fields: NDArray[np.int32],
        draws: NDArray[np.int32],
        adapters: StepAdapters | None = None,
    ) -> Flight:
        """Begin a step of one token a sequence; see `choosing.packed_draws`."""
        ...

    def free_bytes(self) -> int:
        """Memory that can still be taken on every device."""
        ...
