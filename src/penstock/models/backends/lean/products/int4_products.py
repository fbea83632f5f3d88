# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Products with matrices in 4 bit on a GPU, bigdl-llm's sym_int4 or others: see `Int4`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import triton

from penstock.models.backends.lean.kernels import int4_vector, products
from penstock.models.backends.lean.operations.ops import Sorted

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Int4

FEW_TOKENS: Final = 128
"""Rows up to which int4 weights are multiplied as they are; beyond, they are widened first."""

_LEAST_TOKENS: Final = 32
_MOST_TOKENS: Final = 64
_TILES: Final = 528
"""Tiles of a product that keep a GPU busy: with fewer, its columns are cut."""

_MOST_PARTS: Final = 8

_SORTED_TOGETHER: Final = 1024
"""Columns of a row that one program sorts."""

_WIDENED_TOGETHER: Final = 512
"""Words of a row that one program widens."""


def room(x: torch.Tensor, into: Int4) -> Sorted:
    """For one row of x's type and device, sorted for a matrix."""
    values = torch.empty((9, into.packed.shape[1]), dtype=torch.float32, device=x.device)
    return Sorted(values, x.dtype, into.block)


def sort(x: torch.Tensor, linear: Int4, overlap: dict[str, Any]) -> Sorted:
    """One row, (1, columns), as `vector_product` takes it."""
    columns = linear.shape[1]
    out = room(x, linear)
    int4_vector.int4_sort_kernel[(triton.cdiv(columns, _SORTED_TOGETHER),)](
        x,
        x if linear.order is None else linear.order,
        out.values,
        COLUMNS=columns,
        WIDTH=_SORTED_TOGETHER,
        BLOCK=linear.block,
        ORDERED=linear.order is not None,
        num_warps=4,
        **overlap,
    )
    return out


def vector_product(x: Sorted, linear: Int4, overlap: dict[str, Any]) -> torch.Tensor:
    """One row times a matrix, (1, rows)."""
    rows, words = linear.packed.shape
    out = torch.empty((1, rows), dtype=x.kind, device=x.values.device)
    int4_vector.int4_vector_kernel[(triton.cdiv(rows, VECTOR["TOGETHER"]),)](
        x.values,
        linear.packed,
        linear.scales,
        linear.scales if linear.zeros is None else linear.zeros,
        x.values if linear.bias is None else linear.bias,
        out,
        products.MAGIC.value,
        COLUMNS=8 * words,
        ROWS=rows,
        GROUP=linear.group,
        ZEROED=linear.zeros is not None,
        BIASED=linear.bias is not None,
        EXACT=x.kind == torch.float32,
        **VECTOR,
        **overlap,
    )
    return out


def product(x: torch.Tensor, linear: Int4) -> torch.Tensor:
    """A few rows, (T, columns), in the matrix's order, times a matrix -> (T, rows)."""
    rows, words = linear.packed.shape
    count, block = len(x), linear.block
    tokens = min(_MOST_TOKENS, max(_LEAST_TOKENS, triton.next_power_of_2(count)))
    # float32 has no room for the larger tiles, nor fast units for them.
    many = tokens > 32 and x.element_size() == 2  # noqa: PLR2004 - tokens, bytes
    how = MANY if many else FEW
    tiles = triton.cdiv(rows, how["BLOCK_ROWS"]) * triton.cdiv(count, tokens)
    splits = splits_for(tiles, words // how["WORDS"])
    by_nibbles = x.view(count, -1, 2, block // 8, 4).permute(0, 4, 2, 1, 3).contiguous()
    if splits > 1:
        out = torch.empty((splits, count, rows), dtype=torch.float32, device=x.device)
    else:
        out = x.new_empty((count, rows))
    products.int4_product_kernel[
        (triton.cdiv(rows, how["BLOCK_ROWS"]), triton.cdiv(count, tokens), splits)
    ](
        by_nibbles,
        linear.packed,
        linear.scales,
        linear.scales if linear.zeros is None else linear.zeros,
        x if linear.bias is None else linear.bias,
        out,
        count,
        COLUMNS=8 * words,
        ROWS=rows,
        TOKENS=tokens,
        SPLITS=splits,
        GROUP=linear.group,
        ZEROED=linear.zeros is not None,
        BIASED=linear.bias is not None,
        PRECISION=precision(x),
        **how,
    )
    return out.sum(0).to(x.dtype) if splits > 1 else out


def widen(linear: Int4, out: torch.Tensor) -> None:
    """Write the weights into `out` (rows, columns), columns in the matrix's order."""
    rows, words = linear.packed.shape
    products.int4_widen_kernel[(rows, triton.cdiv(words, _WIDENED_TOGETHER))](
        linear.packed,
        linear.scales,
        linear.scales if linear.zeros is None else linear.zeros,
        out,
        COLUMNS=8 * words,
        WORDS=_WIDENED_TOGETHER,
        GROUP=linear.group,
        BLOCK=linear.block,
        ZEROED=linear.zeros is not None,
        num_warps=4,
    )


def splits_for(tiles: int, most: int) -> int:
    """Into how many parts the columns are cut, so that a product of few rows fills the device."""
    splits = 1
    while tiles * splits * 2 <= _TILES and splits * 2 <= min(most, _MOST_PARTS):
        splits *= 2
    return splits


def precision(x: torch.Tensor) -> str:
    """How the matrix units take float32: as it is, not shortened to tf32."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


# Found by trying on an H100, VECTOR on an H200; every one is right on any device.
VECTOR: dict[str, Any] = {"TOGETHER": 8, "PIECES": 128, "num_warps": 4, "num_stages": 1}
FEW: dict[str, Any] = {"BLOCK_ROWS": 64, "WORDS": 32, "num_warps": 4, "num_stages": 2}
MANY: dict[str, Any] = {"BLOCK_ROWS": 64, "WORDS": 64, "num_warps": 4, "num_stages": 2}
