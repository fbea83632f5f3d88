"""What a model of Transformers is computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.loading import checkpoint
from penstock.models.spec import FP8_FORMAT

if TYPE_CHECKING:
    from penstock.models.spec import ModelSpec

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def choose_dtype(spec: ModelSpec, config: Any) -> torch.dtype:
    """What to compute in: the spec's, or the checkpoint's if the device computes it fast.

    :raises ModelNotLoadable: the spec asks for FP8, which only the lean decoder has.
    """
    if spec.format == FP8_FORMAT:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: format = 'fp8' is for models that generate text; "
            f"serve this one with format = 'bf16'"
        )
    if spec.format is not None:
        return DTYPES[spec.format]
    stored = checkpoint.dtype(spec, config)
    return devices.device_of(spec).compute_dtype(stored, checkpoint.file_bytes(spec))
