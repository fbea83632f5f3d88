"""Intel GPUs: every line of Penstock that only runs on torch's XPU build. See docs/xpu.md."""

from __future__ import annotations

from typing import Any, cast

import torch

from penstock.models.devices.accelerator import Accelerator


class Xpu(Accelerator):
    """A GPU that torch's XPU build drives (Arc, Data Center GPU Flex and Max, Core Ultra)."""

    kind = "xpu"
    collectives = "xccl"
    maker = "Intel"
    graph_class = "XPUGraph"

    def __init__(self, index: int = 0) -> None:
        super().__init__(cast("Any", torch.xpu), index)

    def built(self) -> bool:
        """Whether this torch is an XPU build."""
        return torch.version.xpu is not None

    def advice(self) -> str:
        """What to do where torch sees no GPU."""
        if self.built():
            return (
                "install Intel's GPU driver (intel-opencl-icd, libze-intel-gpu1), be in the group "
                "that owns /dev/dri/renderD*, and hand /dev/dri to the container"
            )
        return "pip install torch from download.pytorch.org/whl/xpu (its XPU build)"

    def free_bytes(self) -> int:
        """As for others; drivers that do not tell (most integrated GPUs) leave torch's own count."""
        try:
            return super().free_bytes()
        except RuntimeError:
            properties = self.library.get_device_properties(self.index)
            used = int(self.library.memory_reserved(self.torch_device))
            return int(properties.total_memory) - used
