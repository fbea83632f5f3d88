"""Layouts whose codes are numbers of a small floating type, or of a table: FP8, NF4, FP4, MXFP4."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.weights.published.integers import NotReadable

if TYPE_CHECKING:
    from collections.abc import Callable

FP8_TYPES: Final = (torch.float8_e4m3fn, torch.float8_e5m2)
_DEFAULT_BLOCK: Final = (128, 128)
_MAGNITUDES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1: Final = (*_MAGNITUDES, *(-value for value in _MAGNITUDES))
"""What the codes of MXFP4 stand for, before their scale."""
_MX_BIAS: Final = 127


@dataclass(frozen=True, slots=True)
class Fp8Codes:
    """FP8 values (rows, columns); `group` neighbours in a row share one of `scales`.

    These are (rows, columns / group, rounded up) float32.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    group: int

    def values(self) -> torch.Tensor:
        """The weights, (rows, columns) float32."""
        columns = self.codes.shape[1]
        return self.codes.float() * self.scales.repeat_interleave(self.group, 1)[:, :columns]


def fp8(values: torch.Tensor, scales: torch.Tensor, block: tuple[int, int] | None) -> Fp8Codes:
    """Read FP8 values with one scale a matrix, a row or a block.

    :raises NotReadable: the scales are of no such size.
    """
    rows, columns = values.shape
    scales = scales.float()
    if scales.numel() == 1:
        return Fp8Codes(values, scales.reshape(1, 1).expand(rows, 1), columns)
    if scales.numel() == rows and scales.shape[0] == rows:
        return Fp8Codes(values, scales.reshape(rows, 1), columns)
    high, wide = block or _DEFAULT_BLOCK
    if tuple(scales.shape) != (-(-rows // high), -(-columns // wide)):
        raise NotReadable(f"FP8 {(rows, columns)} with scales {tuple(scales.shape)}")
    return Fp8Codes(values, scales.repeat_interleave(high, 0)[:rows], wide)


def bitsandbytes_4bit(
    packed: torch.Tensor, extra: Callable[[str], torch.Tensor | None]
) -> torch.Tensor:
    """Return the values of bitsandbytes' 4 bit (NF4 or FP4), float32.

    `extra` gives the tensors beside the codes by the end of their names: `absmax`, `quant_map`,
    `quant_state.bitsandbytes__nf4`, and of scales that are quantised themselves `nested_absmax`
    and `nested_quant_map`.

    :raises NotReadable: one is missing, or damaged.
    """
    state = _state(extra)
    try:
        shape, block = tuple(map(int, state["shape"])), int(state["blocksize"])
        table, scales = extra("quant_map"), extra("absmax")
        assert table is not None  # noqa: S101 - the checkpoint's own index has named them
        assert scales is not None  # noqa: S101 - as above
        if (nested := extra("nested_absmax")) is not None:
            levels = extra("nested_quant_map")
            assert levels is not None  # noqa: S101 - written together
            inner = nested.repeat_interleave(int(state["nested_blocksize"]))[: scales.numel()]
            scales = levels[scales.long()] * inner + float(state["nested_offset"])
        codes = packed.reshape(-1)
        # The first of a byte's two weights is in its high bits.
        pairs = torch.stack((codes >> 4, codes & 15), dim=-1).reshape(-1)
        rows, columns = shape
        flat = table.float()[pairs[: rows * columns].long()]
        own = scales.float().repeat_interleave(block)[: flat.numel()]
        return (flat * own).view(rows, columns)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AssertionError) as error:
        raise NotReadable(f"bitsandbytes' 4 bit: {type(error).__name__}: {error}") from error


def _state(extra: Callable[[str], torch.Tensor | None]) -> dict[str, Any]:
    for kind in ("nf4", "fp4"):
        state = extra(f"quant_state.bitsandbytes__{kind}")
        if state is not None:
            try:
                return json.loads(state.numpy().tobytes())
            except ValueError as error:
                raise NotReadable(f"bitsandbytes' state is no JSON: {error}") from error
    raise NotReadable("bitsandbytes' 4 bit without its quant_state")


def mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What MXFP4 stands for, (..., rows, columns) float32.

    `blocks` (..., rows, columns / 32, 16) have two weights of 4 bits a byte, the even column low;
    `scales` (..., rows, columns / 32) are exponents of two, with 127 added.
    """
    codes, powers = mxfp4_codes(blocks, scales)
    return (torch.tensor(E2M1)[codes.int()] * powers[..., None]).flatten(-2)


def mxfp4_codes(blocks: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """MXFP4's codes in the order of columns, (..., columns / 32, 32) uint8, and powers of two.

    The latter are (..., columns / 32) float32. See `mxfp4`.
    """
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    exponents = scales.to(torch.int32) - _MX_BIAS
    return codes, torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)
