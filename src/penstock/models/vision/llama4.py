"""Images of Llama 4: a grid of square tiles that fits an image best, and the whole image once more.

Transformers has this by torchvision only; here it is done by Pillow, in the same steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from penstock.models.catalogue.model_folder import read_config
from penstock.models.vision.prepared import PreparedImage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

PROCESSOR = "Llama4Processor"

_START, _END = "<|image_start|>", "<|image_end|>"
_WHOLE = "<|image|>"
_PATCH = "<|patch|>"
_COLUMN_END, _ROW_END = "<|tile_x_separator|>", "<|tile_y_separator|>"


class Llama4Reader:
    """See `penstock.models.vision.prepared.ImageReader`."""

    image_token = _WHOLE

    def __init__(self, path: Path) -> None:
        """Read a folder's configurations.

        :raises ValueError: its tiles are not square, or images are not resized.
        """
        stated = read_config(path, "processor_config.json")
        nested = stated.get("image_processor")
        own = read_config(path, "preprocessor_config.json") or (
            cast("dict[str, Any]", nested) if isinstance(nested, dict) else {}
        )
        size = own.get("size") or {"height": 336, "width": 336}
        if size.get("height") != size.get("width") or own.get("do_resize") is False:
            raise ValueError("images of Llama 4 are resized to square tiles")
        self._side = int(size["height"])
        self._most_tiles = int(own.get("max_patches") or 16)
        self._enlarge = bool(own.get("resize_to_max_canvas"))
        self._mean = _column(own.get("image_mean") or [0.5] * 3)
        self._spread = _column(own.get("image_std") or [0.5] * 3)
        self._scale = float(own.get("rescale_factor") or 1 / 255)
        patches = (self._side // int(stated.get("patch_size") or 14)) ** 2
        shrunk = round(1 / float(stated.get("pixel_shuffle_ratio") or 0.5) ** 2)
        self._tokens = patches // shrunk

    def prepare(self, image: Image) -> PreparedImage:
        """See `penstock.models.vision.prepared.ImageReader`."""
        rows, columns = best_grid(
            image.height, image.width, self._side, self._most_tiles, enlarge=self._enlarge
        )
        tiles = self._tiles(image, rows, columns)
        if rows * columns > 1:
            whole = self._values(_resized(image, self._side, self._side))
            tiles = torch.cat((tiles, whole[None]))
        return PreparedImage(
            text=self._text(rows, columns),
            tokens=len(tiles) * self._tokens,
            inputs={"pixel_values": tiles},
        )

    def _tiles(self, image: Image, rows: int, columns: int) -> torch.Tensor:
        """Return an image's tiles in reading order, (rows * columns, 3, side, side)."""
        side = self._side
        height, width = rows * side, columns * side
        most_height, most_width = height, width
        if not self._enlarge:  # small images grow to one tile at most, and are padded
            most_height = min(max(image.height, side), height)
            most_width = min(max(image.width, side), width)
        fitted = _resized(image, *_fitting(image.height, image.width, most_height, most_width))
        canvas = torch.zeros(3, height, width, dtype=torch.uint8)
        canvas[:, : fitted.shape[1], : fitted.shape[2]] = fitted
        cut = self._values(canvas).reshape(3, rows, side, columns, side)
        return cut.permute(1, 3, 0, 2, 4).reshape(rows * columns, 3, side, side)

    def _values(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (3, H, W) uint8 as the model saw them in training, which was in bfloat16."""
        values = pixels.to(torch.bfloat16) * self._scale
        return (values - self._mean) / self._spread

    def _text(self, rows: int, columns: int) -> str:
        tile = _PATCH * self._tokens
        tiles = (
            "" if rows * columns == 1 else (_COLUMN_END.join([tile] * columns) + _ROW_END) * rows
        )
        return f"{_START}{tiles}{_WHOLE}{tile}{_END}"


def best_grid(
    height: int, width: int, side: int, most_tiles: int, *, enlarge: bool
) -> tuple[int, int]:
    """Return (rows, columns) of the tiles of `side` pixels that an image is laid on.

    Of the grids that hold it undiminished those that enlarge it least (or most, if `enlarge`), else
    those that shrink it least; among them the one of the fewest tiles.
    """
    grids = [
        (rows, columns)
        for rows in range(1, most_tiles + 1)
        for columns in range(1, most_tiles // rows + 1)
    ]
    scales = torch.tensor(grids) * side / torch.tensor([height, width])
    shares = [float(share) for share in scales.min(dim=1).values]
    holding = [share for share in shares if share >= 1]
    by_choice = max if enlarge or not holding else min
    chosen = by_choice(holding or shares)
    fitting = [grid for grid, share in zip(grids, shares, strict=True) if share == chosen]
    return min(fitting, key=lambda grid: grid[0] * grid[1])


def _fitting(height: int, width: int, most_height: int, most_width: int) -> tuple[int, int]:
    """Return the largest (height, width) of the same proportions within bounds."""
    by_height, by_width = most_height / height, most_width / width
    if by_width < by_height:
        return max(1, min(int(height * by_width), most_height)), most_width
    return most_height, max(1, min(int(width * by_height), most_width))


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bfloat16)[:, None, None]


def _resized(image: Image, height: int, width: int) -> torch.Tensor:
    """Return an image of another size as (3, height, width) uint8."""
    import numpy as np  # noqa: PLC0415 - Pillow is there only with models that take images
    from PIL.Image import Resampling  # noqa: PLC0415 - as above

    pixels = np.array(image.resize((width, height), Resampling.BILINEAR))
    return torch.as_tensor(pixels).permute(2, 0, 1)
