# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Kernels that begin before the one they follow has ended, where the device lets them.

NVIDIA calls it programmatic dependent launch. Such a kernel waits for the one before, lets the next
begin only then, and writes nothing earlier. So at most two run at once, and before its wait a kernel
may read what was written at least two kernels before it, and weights: these then come while the
small kernels between two products run. (A kernel that let the next begin before its own wait made
everything slower: programs that wait hold the places of those that work.)
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def follow(OVERLAPS: tl.constexpr):
    """Wait for the kernel before, and let the next one begin."""
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
