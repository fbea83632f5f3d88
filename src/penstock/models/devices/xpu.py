"""Intel GPUs: all code of Penstock that runs only on torch's XPU build. See docs/xpu.md."""

from __future__ import annotations

from typing import Any, cast

import torch

from penstock.models.devices.accelerator import Accelerator


class Xpu(Accelerator):
    """A GPU driven by torch's XPU build (Arc, Data Center GPU Flex and Max, Core Ultra)."""

    kind = "xpu"
    collectives = "xccl"
    maker = "Intel"
    graph_class = "XPUGraph"

    def __init__(self, index: int = 0) -> None:
        super().__init__(cast("Any", torch.xpu), index)

    def built(self) -> bool:
        """Return whether this is an XPU build."""
        return torch.version.xpu is not None

    def advice(self) -> str:
        """Return what to do if torch sees no GPU."""
        if self.built():
            return (
                "install Intel's GPU driver (intel-opencl-icd, libze-intel-gpu1), join the group "
                "that owns /dev/dri/renderD*, and pass /dev/dri to the container"
            )
        return "pip install torch from download.pytorch.org/whl/xpu (its XPU build)"

    def free_bytes(self) -> int:
        """Return as others do, or torch's own count for drivers (of integrated GPUs) without one."""
        try:
            return super().free_bytes()
        except RuntimeError:
            properties = self.library.get_device_properties(self.index)
            used = int(self.library.memory_reserved(self.torch_device))
            return int(properties.total_memory) - used
