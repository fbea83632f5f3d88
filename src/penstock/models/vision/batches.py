"""Which prepared images a vision tower reads in one forward, and their inputs joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from penstock.models.vision.prepared import PreparedImage

MOST_VALUES: Final = 4 * 1024 * 1024
"""Pixel values of one forward: 12 images of 336 x 336, or 7,000 patches of 14 x 14.

It bounds the tower's memory, which is some hundreds of bytes a value; an image of more is read alone.
"""


def batches(images: Sequence[PreparedImage], most_values: int) -> list[list[int]]:
    """Return the numbers of the images of each forward: inputs of one shape, within a bound."""
    by_shape: dict[Hashable, list[list[int]]] = {}
    sizes: dict[Hashable, int] = {}
    for number, image in enumerate(images):
        shape, size = _shape(image), values(image)
        groups = by_shape.setdefault(shape, [])
        sizes[shape] = sizes.get(shape, 0) + size
        if not groups or sizes[shape] > most_values:
            groups.append([])
            sizes[shape] = size
        groups[-1].append(number)
    return [group for groups in by_shape.values() for group in groups]


def joined(images: Sequence[PreparedImage]) -> dict[str, torch.Tensor]:
    """Return the inputs of images of one shape, in one tensor each."""
    first = images[0]
    return {
        name: torch.cat([image.inputs[name] for image in images], first.joined_along.get(name, 0))
        for name in first.inputs
    }


def _shape(image: PreparedImage) -> Hashable:
    """All that must be equal for images to be joined."""
    return tuple(
        (name, one.dtype, _without(one.shape, image.joined_along.get(name, 0)))
        for name, one in sorted(image.inputs.items())
    )


def _without(shape: torch.Size, dimension: int) -> tuple[int, ...]:
    sizes = list(shape)
    del sizes[dimension]
    return tuple(sizes)


def values(image: PreparedImage) -> int:
    """Return the number of an image's pixel values."""
    return sum(one.numel() for one in image.inputs.values() if one.is_floating_point())
