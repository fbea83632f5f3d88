"""How a model is compiled: precision, KV cache type, threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

CachePrecision = Literal["f32", "f16", "bf16", "u8"]
Precision = Literal["f32", "bf16", "f16"]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """The options for the plugin.

    `precision` is what products and norms compute in. `activation_group` is how many activations
    share a scale if a product with compressed weights runs in INT8 (0: they stay as they
    are; None: the graph or the plugin decides). `threads` 0 means all cores that the process may
    use. `pinned` keeps a thread on its core: only if no other worker may use these cores, since
    both would choose the same ones.
    """

    device: str
    precision: Precision
    cache_precision: CachePrecision
    activation_group: int | None = None
    threads: int = 0
    pinned: bool = False

    def properties(self) -> dict[str, Any]:
        """In OpenVINO's names."""
        chosen: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "KV_CACHE_PRECISION": self.cache_precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.activation_group is not None:
            chosen["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = self.activation_group
        if self.device == "CPU":
            chosen["NUM_STREAMS"] = 1
            if self.threads:
                chosen["INFERENCE_NUM_THREADS"] = self.threads
            chosen["ENABLE_CPU_PINNING"] = self.pinned
        return chosen
