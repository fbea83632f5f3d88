"""Triton kernels of the lean decoder. Plain Triton for CUDA and XPU alike, but for `prefill_hopper`."""
