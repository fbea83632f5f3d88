"""Where a backend takes a model's weights from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format, Kept, Matrix, Packed


class Weights(Protocol):
    """A backend's source of weights: a checkpoint, or a converted file."""

    @property
    def parameters(self) -> int:
        """The number of weights requested so far, counting shared ones once."""
        ...

    @property
    def kept(self) -> Kept:
        """What became of published codes so far."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is a tensor of this name."""
        ...

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a norm's weight or a bias."""
        ...

    def embeddings(self, name: str) -> Matrix:
        """Return an embedding table."""
        ...

    def matrix(self, name: str, shape: tuple[int, int], form: Format) -> Matrix:
        """Return a linear layer's weight.

        :raises ModelNotLoadable: its shape is not `shape`.
        """
        ...

    def packed(self, key: str, make: Callable[[Checkpoint], Packed]) -> Packed:
        """Return the result of `make` for the checkpoint, computed now or when it was converted."""
        ...
