"""Experts' matrices that share one tensor in a checkpoint: plain, low-bit blocks, or MXFP4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.weights.published import floats

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format, Matrix

_MX_BLOCK: Final = 32
"""Weights of a row that share a power of two."""


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """Matrices of `shape` (rows, columns), by expert, in `values`.

    `scales` belong to MXFP4's blocks; `transposed` matrices are stored as (columns, rows).
    """

    checkpoint: Checkpoint
    name: str
    values: torch.Tensor
    scales: torch.Tensor | None
    shape: tuple[int, int]
    transposed: bool

    @staticmethod
    def of(
        checkpoint: Checkpoint, name: str, count: int, shape: tuple[int, int], *, transposed: bool
    ) -> ExpertTensor:
        """Return the tensor `name`, with or without `.weight`, or MXFP4's pair of tensors.

        For matrices that are not square the stored shape decides, whatever `transposed` is.

        :raises ModelNotLoadable: it is missing, or has a wrong shape.
        """
        rows, columns = shape
        if checkpoint.has(f"{name}_blocks"):
            blocks = checkpoint.tensor(f"{name}_blocks")
            scales = checkpoint.tensor(f"{name}_scales")
            inner = (columns // _MX_BLOCK, _MX_BLOCK // 2)
            _check(checkpoint.path, f"{name}_blocks", blocks, (count, rows, *inner))
            _check(checkpoint.path, f"{name}_scales", scales, (count, rows, inner[0]))
            return ExpertTensor(checkpoint, name, blocks, scales, shape, transposed=False)
        own = f"{name}.weight" if checkpoint.has(f"{name}.weight") else name
        values = checkpoint.tensor(own)
        if values.dtype == torch.uint8:
            if values.numel() % count:
                raise ModelNotLoadable(f"{checkpoint.path}: {own} holds {values.numel()} bytes")
            return ExpertTensor(
                checkpoint, own, values.reshape(count, -1), None, shape, transposed=False
            )
        if rows != columns:
            transposed = tuple(values.shape[1:]) == (columns, rows)
        lying = (columns, rows) if transposed else (rows, columns)
        _check(checkpoint.path, own, values, (count, *lying))
        return ExpertTensor(checkpoint, own, values, None, shape, transposed=transposed)

    def matrix(self, number: int, form: Format) -> Matrix:
        """Return one expert's matrix in `form`, or in bigdl-llm's blocks if it is stored in them."""
        own = self.values[number]
        if self.scales is not None:
            own = floats.mxfp4(own, self.scales[number])
        elif self.transposed:
            own = own.T.contiguous()
        return self.checkpoint.held(f"{self.name}.{number}", own, self.shape, form)


def _check(path: Path, name: str, found: torch.Tensor, expected: tuple[int, ...]) -> None:
    if tuple(found.shape) != expected:
        raise ModelNotLoadable(
            f"{path}: {name} is {tuple(found.shape)}, the configuration says {expected}"
        )
