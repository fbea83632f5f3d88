"""bigdl-llm's `sym_int4` blocks, bit for bit.

Its native library calls the format q4_0, but its blocks are twice as long as ggml's of that name:
64 weights along the input share one fp16 scale, 34 bytes in all. Low nibbles hold weights 0 to 31,
high nibbles 32 to 63, each with an offset of 8. (`ggml_qk_size(2)` is 64 and `ggml_type_size(2)`
34 in bigdl-llm 2.4.0.)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64
BLOCK_BYTES = 2 + BLOCK // 2
_DOUBTFUL = 1e-5
_AT_ONCE = (1 << 15) - 1
"""Weights converted at once: they fit into a core's cache, and torch uses one thread for so few.
(Torch's own threads wait for each other at every operation, which took ten times as long on a busy
machine.)"""


def unpack(
    blocks: NDArray[np.uint8], rows: int, columns: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Convert blocks in bigdl-llm's layout to OpenVINO's INT4 constants.

    Returns the weights, (rows, columns / 2) bytes of two's complement nibbles, even columns low;
    and the scales, (rows, columns / 64) fp16.
    """
    shaped = blocks.reshape(rows, columns // BLOCK, BLOCK_BYTES)
    scales = np.ascontiguousarray(shaped[..., :2]).view(np.float16)[..., 0]
    packed = np.empty((rows, columns // BLOCK, BLOCK // 2), np.uint8)
    step = max(1, _AT_ONCE // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        nibbles = shaped[part, :, 2:]
        low = nibbles & 15
        high = nibbles >> 4
        packed[part, :, : BLOCK // 4] = low[..., 0::2] | (low[..., 1::2] << 4)
        packed[part, :, BLOCK // 4 :] = high[..., 0::2] | (high[..., 1::2] << 4)
    np.bitwise_xor(packed, 0x88, out=packed)  # offset 8 to two's complement
    return packed.reshape(rows, columns // 2), scales


def quantize(
    weight: torch.Tensor, group: int = BLOCK
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Quantise (rows, columns) with bigdl-llm's rounding; return the same as `unpack`.

    bigdl-llm's AVX code computes `weight / scale + 8.5` with a fused multiply-add. Where that can
    matter, the sum is computed here in float64, in which the product is exact, and rounded once.
    `group` weights share a scale; 64 is bigdl-llm's.
    """
    rows, columns = weight.shape
    packed = np.empty((rows, columns // 2), np.uint8)
    scales = np.empty((rows, columns // group), np.float16)

    def convert(start: int, stop: int) -> None:
        step = max(1, _AT_ONCE // columns)
        for first in range(start, stop, step):
            part = slice(first, min(first + step, stop))
            values, scale = _quantize_rows(weight[part].float(), group)
            pairs = values.view(-1, columns // 2, 2)
            nibbles = pairs[..., 0] | (pairs[..., 1] << 4)
            packed[part] = (nibbles ^ 0x88).numpy()
            scales[part] = scale.numpy()

    threads = torch.get_num_threads()
    bounds = [rows * share // threads for share in range(threads + 1)]
    if threads == 1:
        convert(0, rows)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(convert, bounds[:-1], bounds[1:]))
    return packed, scales


def _quantize_rows(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values 0 to 15, (rows, columns) uint8, and scales, (rows, columns / group) fp16."""
    blocks = weight.reshape(-1, group)
    scale = _extremes(blocks) / -8
    inverse = torch.where(scale != 0, 1 / scale, 0)[:, None]
    shifted = (blocks * inverse).add_(8.5)
    values = shifted.to(torch.uint8)
    # Rounding twice instead of once matters only near an integer: those are computed again exactly.
    doubtful = (shifted - shifted.round()).abs_() < _DOUBTFUL
    where = doubtful.view(-1).nonzero()[:, 0]
    exact = blocks.reshape(-1)[where].double() * inverse[where // group, 0].double() + 8.5
    values.view(-1)[where] = exact.float().to(torch.uint8)
    values.clamp_(max=15)
    return values.view(weight.shape), scale.view(weight.shape[0], -1).half()


def _extremes(blocks: torch.Tensor) -> torch.Tensor:
    """Return each block's value of largest magnitude, the first one if both signs have it."""
    low, high = blocks.aminmax(dim=-1)
    extremes = torch.where(-low > high, low, high)
    tied = (-low == high).nonzero()[:, 0]
    if len(tied):
        rows = blocks[tied]
        extremes[tied] = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))[:, 0]
    return extremes


def dequantize(packed: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the weights that `packed` and `scales` represent, (rows, columns)."""
    rows, half = packed.shape
    values = np.empty((rows, half, 2), np.int8)
    values[..., 0] = (packed << 4).view(np.int8) >> 4
    values[..., 1] = packed.view(np.int8) >> 4
    groups = scales.shape[1]
    grouped = values.reshape(rows, groups, -1).astype(np.float32)
    return (grouped * scales[..., None].astype(np.float32)).reshape(rows, 2 * half)
