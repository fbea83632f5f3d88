"""OpenVINO's runtime as a backend: the fastest on Intel CPUs, and Intel GPUs by the same code."""

from penstock.models.backends.openvino.loading import load

__all__ = ["load"]
