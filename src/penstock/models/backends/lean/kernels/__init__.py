"""Triton kernels of the lean decoder. Plain Triton, nothing of one vendor: CUDA and XPU alike."""
