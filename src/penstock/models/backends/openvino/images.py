"""The images of a step as the graph takes them.

`image_rows` has a number for each token: 0 for text, else a row of `image_embeddings` and of each
`image_features.<layer>`. Their row 0 is zeros, so that they are never empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.models.vision.turning import cosines_and_sines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.engine.model import Batch

ROWS: Final = "image_rows"
EMBEDDINGS: Final = "image_embeddings"


def features_of(layer: int) -> str:
    """Return the name of what a layer adds to its result."""
    return f"image_features.{layer}"


def inputs_of(
    batch: Batch, first_rows: Sequence[int], tokens: int, *, hidden_size: int, layers: int
) -> dict[str, NDArray[Any]]:
    """Return the graph's inputs of a step of so many tokens, whose slices begin at `first_rows`."""
    rows = np.zeros(tokens, np.int64)
    nothing = np.zeros((1, hidden_size), np.float32)
    names = (EMBEDDINGS, *map(features_of, range(layers)))
    parts: dict[str, list[NDArray[np.float32]]] = {name: [nothing] for name in names}
    count = 1
    for span, own, place in batch.image_spans(first_rows):
        rows[place] = np.arange(count, count + own.stop - own.start)
        count += own.stop - own.start
        for name, values in zip(names, (span.embeddings, *span.layer_features), strict=True):
            parts[name].append(values[own].float().numpy())
    return {ROWS: rows, **{name: np.concatenate(each) for name, each in parts.items()}}


def turn(
    batch: Batch, first_rows: Sequence[int], rotary: Any, tables: Sequence[NDArray[np.float32]]
) -> None:
    """Write the cosines and sines of prompts with images into those of a step.

    `tables` are (tokens, 1, 1, size) each; `rotary` turns by time, height and width.
    """
    for rows, positions in batch.image_turns(first_rows):
        for table, own in zip(tables, cosines_and_sines(rotary, positions), strict=True):
            table[rows, 0, 0] = own.numpy()
