"""Images of Pixtral and Mistral 3: any size in patches, each row of them closed by a token.

Transformers' processor of text needs torchvision; its processor of images does not, so that one is
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading.libraries import transformers
from penstock.models.vision.prepared import PreparedImage

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

PROCESSOR = "PixtralProcessor"


class PixtralReader:
    """See `penstock.models.vision.prepared.ImageReader`."""

    def __init__(self, path: Path) -> None:
        """Read a folder's configurations."""
        stated = read_config(path, "processor_config.json")
        self.image_token = str(stated.get("image_token") or "[IMG]")
        self._row_end = str(stated.get("image_break_token") or "[IMG_BREAK]")
        self._end = str(stated.get("image_end_token") or "[IMG_END]")
        self._side = int(stated.get("patch_size") or 16) * int(
            stated.get("spatial_merge_size") or 1
        )
        kind: Any = transformers().PixtralImageProcessorPil
        self._images: Any = kind.from_pretrained(path, local_files_only=True)

    def prepare(self, image: Image) -> PreparedImage:
        """See `penstock.models.vision.prepared.ImageReader`."""
        made = self._images([image], patch_size=self._side, return_tensors="pt")
        height, width = made["image_sizes"][0].tolist()
        rows, columns = height // self._side, width // self._side
        row = self.image_token * columns
        return PreparedImage(
            text=self._row_end.join([row] * rows) + self._end,
            tokens=rows * columns,
            inputs={name: made[name] for name in ("pixel_values", "image_sizes")},
        )
