"""Images of MiniCPM-V 4.6 and 4.7: the whole image, then slices of it in a grid, in packed patches.

Transformers' processor of text needs its processor of videos, which needs torchvision; its
processor of images does not, so that one is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.models.loading.libraries import transformers
from penstock.models.vision.markers import read_markers
from penstock.models.vision.prepared import NUMBER, PreparedImage

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL.Image import Image

PROCESSORS = ("MiniCPMV4_6Processor", "MiniCPMV4_7Processor")

_PATCHES_A_TOKEN = {"4x": 4, "16x": 16}
_MARKERS = (
    "image_token", "image_start_token", "image_end_token", "slice_start_token", "slice_end_token",
    "image_id_start_token", "image_id_end_token",
)  # fmt: skip


class MiniCPMReader:
    """See `penstock.models.vision.prepared.ImageReader`."""

    def __init__(self, path: Path) -> None:
        """Read a folder's configurations.

        :raises ValueError: its tokenizer does not name the markers of images.
        """
        kind: Any = transformers().MiniCPMV4_6ImageProcessorPil
        self._images: Any = kind.from_pretrained(path, local_files_only=True)
        self._markers = read_markers(path, _MARKERS)
        self.image_token = self._markers["image_token"]

    def prepare(self, image: Image) -> PreparedImage:
        """See `penstock.models.vision.prepared.ImageReader`."""
        made = self._images([image], return_tensors="pt")
        sizes: torch.Tensor = made["target_sizes"]  # (pieces, 2) int, in patches
        patches = _PATCHES_A_TOKEN[self._images.downsample_mode]
        counts = [int(count) // patches for count in sizes.prod(dim=-1)]
        _, columns = made["grids"][0]
        slices = [self._piece("slice", count) for count in counts[1:]]
        lines = ["".join(slices[at : at + columns]) for at in range(0, len(slices), columns or 1)]
        label = ""
        if self._images.use_image_id:
            label = self._markers["image_id_start_token"] + NUMBER
            label += self._markers["image_id_end_token"]
        return PreparedImage(
            text=self._piece("image", counts[0]) + "\n".join(lines),
            tokens=sum(counts),
            # The pixels are (1, 3, patch, patches * patch).
            inputs={"pixel_values": made["pixel_values"], "target_sizes": sizes},
            joined_along={"pixel_values": -1},
            label=label,
        )

    def _piece(self, name: str, tokens: int) -> str:
        inside = self.image_token * tokens
        return self._markers[f"{name}_start_token"] + inside + self._markers[f"{name}_end_token"]
