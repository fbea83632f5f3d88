# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Kernels that start before the previous one has ended, if the device supports it.

NVIDIA calls it programmatic dependent launch. Such a kernel waits for the previous one, only then
lets the next one start, and writes nothing earlier. At most two kernels therefore run at once, and
before its wait a kernel may read weights, and data written at least two kernels earlier: these are
loaded while the small kernels between two products run. (Letting the next kernel start before one's
own wait made everything slower: waiting programs occupy the places of working ones.)
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def follow(OVERLAPS: tl.constexpr):
    """Wait for the previous kernel, then let the next one start."""
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
