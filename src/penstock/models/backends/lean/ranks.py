"""What the devices of one model exchange while they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import torch

    from penstock.models.backends.lean.operations.ops import Activations, Ops
    from penstock.models.backends.lean.products.linear import Linear


class Ranks(Protocol):
    """Every rank calls the same of these in the same order; they are captured with the kernels."""

    def add_norm(
        self,
        ops: Ops,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        *,
        into: Linear | None,
    ) -> Activations:
        """Add the ranks' sum of x, (T, hidden), to the residual stream, in place, and norm it.

        As `Ops.add_norm` does it for a product with `into`. x may be overwritten.
        """
        ...

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """The ranks' (T, columns) side by side."""
        ...

    def close(self) -> None:
        """Leave the others, who leave too."""
        ...


class Alone:
    """The only rank."""

    def add_norm(
        self,
        ops: Ops,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        *,
        into: Linear | None,
    ) -> Activations:
        """Its own."""
        return ops.add_norm(x, residual, weight, epsilon, into)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """Its own."""
        return x

    def close(self) -> None:
        """There are none."""


ALONE: Final = Alone()
