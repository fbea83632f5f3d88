"""Which layers see no more than a window of a sequence. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Layer


@dataclass(frozen=True, slots=True)
class Sliding:
    """The largest window of layers that slide, in tokens; 0 if none does.

    If other layers see all, those that slide have blocks `apart`, by layer number.
    """

    size: int = 0
    apart: frozenset[int] = frozenset()


def sliding(model: Architecture, context_length: int) -> Sliding:
    """Return which layers of a model slide: those with a window shorter than the context."""

    def window(layer: Layer) -> int:
        own = layer.attention.window
        return own if layer.attends and own < context_length else 0

    size = max(map(window, model.layers))
    apart = frozenset(index for index, layer in enumerate(model.layers) if window(layer))
    all_slide = len(apart) == len(model.attending)
    return Sliding(size, frozenset() if all_slide else apart)
