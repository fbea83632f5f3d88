"""An image as a vision tower takes it, and the text that stands for it in a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from PIL.Image import Image

NUMBER = "{}"
"""In `PreparedImage.label`: the image's number in its prompt."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """What a model's processor makes of an image.

    `text` stands in the prompt for it, with `tokens` of the model's image tokens. `inputs` are the
    tower's, by the names of its arguments. Those of several images are joined along the first
    dimension, which counts images, tiles or patches, or along that of `joined_along`. `label` comes before the text, with the image's number in the prompt at `NUMBER`; most models
    have none.
    """

    text: str
    tokens: int
    inputs: dict[str, torch.Tensor]
    label: str = ""
    joined_along: Mapping[str, int] = field(default_factory=dict[str, int])


class ImageReader(Protocol):
    """Prepares images for one model. One thread at a time."""

    image_token: str
    """The marker that a chat template writes for an image."""

    def prepare(self, image: Image) -> PreparedImage:
        """Return what the model's processor makes of an image, (height, width) of RGB.

        :raises ValueError, LookupError, ArithmeticError: it is too narrow, or too flat.
        """
        ...
