"""Images of Gemma 4: patches of an image of any proportions, filled up to one number.

Transformers' processor of text needs those of sound and videos, of which the latter needs
torchvision; its processor of images does not, so that one is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.models.loading.libraries import transformers
from penstock.models.vision.markers import read_markers
from penstock.models.vision.prepared import PreparedImage

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

PROCESSOR = "Gemma4Processor"


class Gemma4Reader:
    """See `penstock.models.vision.prepared.ImageReader`."""

    def __init__(self, path: Path) -> None:
        """Read a folder's configurations.

        :raises ValueError: its tokenizer does not name the markers of images.
        """
        kind: Any = transformers().Gemma4ImageProcessorPil
        self._images: Any = kind.from_pretrained(path, local_files_only=True)
        markers = read_markers(path, ("image_token", "boi_token", "eoi_token"))
        self.image_token = markers["image_token"]
        self._start, self._end = markers["boi_token"], markers["eoi_token"]

    def prepare(self, image: Image) -> PreparedImage:
        """See `penstock.models.vision.prepared.ImageReader`."""
        made = self._images([image], return_tensors="pt")
        tokens = int(made["num_soft_tokens_per_image"][0])
        return PreparedImage(
            text=self._start + self.image_token * tokens + self._end,
            tokens=tokens,
            inputs={name: made[name] for name in ("pixel_values", "image_position_ids")},
        )
