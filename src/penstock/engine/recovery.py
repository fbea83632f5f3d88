"""What a failed step was: too large for the memory, a device's end, or one sequence's fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from penstock.engine.scheduler import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

_OUT_OF_MEMORY: Final = ("can't allocate memory", "bad_alloc")
"""What the plain RuntimeErrors of torch's CPU allocator and of OpenVINO contain."""
_LOST: Final = ("CUDA error", "cuBLAS", "CUDNN_STATUS", "UR error", "UR backend failed", "PI_ERROR")
"""What torch's plain RuntimeErrors of CUDA and of Intel's runtime (UR, once PI) contain."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a smaller step may do."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Return whether the process can compute nothing more on its device, whatever the sequence."""
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)


def one_by_one(step: Step, block_size: int) -> Iterator[Step]:
    """Yield a step for each sequence of one that has failed, which has changed none of them."""
    for sequence, part in zip(step.sequences, step.slices, strict=True):
        alone = Step()
        # What was guessed of a draft is left out.
        known = len(sequence.token_ids) - part.start
        alone.add(sequence, min(len(part.token_ids), known), block_size)
        yield alone
