"""Where the Triton kernels run: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from penstock.models.backends.lean.operations.overlap import overlap_of
from penstock.models.devices import Cpu
from tests.fixtures.lean import gpu


@pytest.fixture(scope="module")
def place() -> torch.device:
    device = gpu()
    if device is not None:
        return device.torch_device
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("torch sees no GPU here, and Triton's interpreter is not on")
    return torch.device("cpu")


@pytest.fixture(scope="module")
def overlap(place) -> dict[str, Any]:
    return overlap_of(gpu() or Cpu())


@pytest.fixture(scope="module")
def ops(overlap) -> Any:
    from penstock.models.backends.lean.operations.triton_ops import TritonOps

    return TritonOps(overlap)
