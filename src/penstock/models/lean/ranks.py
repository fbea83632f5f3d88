"""What the devices of one model tell each other while they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import torch


class Ranks(Protocol):
    """Every rank calls the same of these in the same order; they are captured with the kernels."""

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks of (T, hidden), which may be overwritten."""
        ...

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """The ranks' (T, columns) side by side."""
        ...

    def close(self) -> None:
        """Leave the others, who leave too."""
        ...


class Alone:
    """The only rank."""

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Its own."""
        return x

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """Its own."""
        return x

    def close(self) -> None:
        """There are none."""


ALONE: Final = Alone()
