"""NVIDIA GPUs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from penstock.models.devices.accelerator import Accelerator

_BF16_SINCE = (8, 0)
_FP8_SINCE = (8, 9)
_OVERLAP_SINCE = (9, 0)


class Cuda(Accelerator):
    """A GPU that torch's CUDA build drives."""

    kind = "cuda"
    collectives = "nccl"
    maker = "NVIDIA"
    graph_class = "CUDAGraph"
    # NCCL has a thread that polls its work; only this thread's calls belong to the capture.
    graph_options: ClassVar[dict[str, Any]] = {"capture_error_mode": "thread_local"}

    def __init__(self, index: int = 0) -> None:
        super().__init__(torch.cuda, index)

    def built(self) -> bool:
        """Return whether this is a CUDA build."""
        return torch.version.cuda is not None

    def advice(self) -> str:
        """Return what to do if torch sees no GPU."""
        if self.built():
            return (
                "is the driver installed (nvidia-smi), and is the device passed to the container?"
            )
        return "pip install torch from download.pytorch.org/whl/cu130 (its CUDA build)"

    @property
    def overlaps(self) -> bool:
        """Whether kernels may overlap: programmatic dependent launch came with Hopper."""
        return torch.cuda.get_device_capability(self.index) >= _OVERLAP_SINCE

    def lacks_fp8(self) -> str | None:
        """Return why there is no FP8: Ada and Hopper were the first to have it."""
        if torch.cuda.get_device_capability(self.index) < _FP8_SINCE:
            return f"{self.describe()} has no FP8: NVIDIA GPUs from compute capability 8.9 on have"
        return super().lacks_fp8()

    def reaches(self, away: int) -> bool:
        """Return whether its kernels can write into the memory of the GPU `away` after it."""
        other = self.index + away
        return not away or bool(torch.cuda.can_device_access_peer(self.index, other))

    def compute_dtype(self, stored: torch.dtype, stored_bytes: int) -> torch.dtype:
        """Return the checkpoint's own type; GPUs before Ampere have no bf16 units."""
        del stored_bytes
        if stored == torch.bfloat16 and torch.cuda.get_device_capability(self.index) < _BF16_SINCE:
            return torch.float16
        return stored
