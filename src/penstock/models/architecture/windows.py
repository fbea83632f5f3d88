"""Which layers see no more than a window of a sequence. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.models.architecture.description import Architecture


@dataclass(frozen=True, slots=True)
class Sliding:
    """The largest window of layers that slide, in tokens; 0 if none does.

    If other layers see all, those that slide have blocks `apart`, by layer number.
    """

    size: int = 0
    apart: frozenset[int] = frozenset()


def sliding(model: Architecture, context_length: int) -> Sliding:
    """Return which layers of a model slide: those with a window shorter than the context."""
    attending = enumerate(model.layers)
    windows = {index: layer.attention.window for index, layer in attending if layer.attends}
    return of_windows(windows, context_length)


def of_windows(windows: Mapping[int, int], context_length: int) -> Sliding:
    """Return the same of the windows of all layers that attend; 0: it sees all."""
    sizes = {index: size for index, size in windows.items() if 0 < size < context_length}
    all_slide = len(sizes) == len(windows)
    return Sliding(max(sizes.values(), default=0), frozenset(() if all_slide else sizes))
