"""Experts' matrices that a checkpoint holds in one tensor: plain, as low-bit blocks, or in MXFP4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.weights.matrices import Checkpoint, Format, Matrix

_MX_BLOCK: Final = 32
"""Weights of a row that share a power of two."""
_MX_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_MX_BIAS: Final = 127


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """Matrices of `shape` (rows, columns), by expert, in `values`.

    `scales` belong to MXFP4's blocks; `transposed` matrices lie as (columns, rows).
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
        """The tensor `name`, with or without `.weight`, or the pair that MXFP4 has.

        Matrices that are not square lie as their shape says, whatever `transposed` does.

        :raises ModelNotLoadable: it is missing, or of another shape.
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
        """One expert's matrix in `form`, or as bigdl-llm's blocks where it holds those."""
        own = self.values[number]
        if self.scales is not None:
            own = from_mxfp4(own, self.scales[number])
        elif self.transposed:
            own = own.T.contiguous()
        return self.checkpoint.held(f"{self.name}.{number}", own, self.shape, form)


def from_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What MXFP4 stands for, (rows, columns) fp32.

    `blocks` (rows, columns / 32, 16) have two weights of 4 bits a byte, the even column low;
    `scales` (rows, columns / 32) are exponents of two, with 127 added.
    """
    table = torch.tensor((*_MX_VALUES, *(-value for value in _MX_VALUES)))
    pairs = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    exponents = scales.to(torch.int32)[..., None] - _MX_BIAS
    return torch.ldexp(table[pairs.long()], exponents).flatten(-2)


def _check(path: Path, name: str, found: torch.Tensor, expected: tuple[int, ...]) -> None:
    if tuple(found.shape) != expected:
        raise ModelNotLoadable(
            f"{path}: {name} is {tuple(found.shape)}, the configuration says {expected}"
        )
