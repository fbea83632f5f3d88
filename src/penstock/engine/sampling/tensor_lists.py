"""Tensors to Python lists, typed: torch's own `tolist` has no element type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch


def flags(tensor: torch.Tensor) -> list[bool]:
    """Return the elements of a bool tensor in order."""
    return cast("list[bool]", _listed(tensor.flatten()))


def integers(tensor: torch.Tensor) -> list[int]:
    """Return the elements of an integer tensor in order."""
    return cast("list[int]", _listed(tensor.flatten()))


def integer_rows(tensor: torch.Tensor) -> list[list[int]]:
    """Return an integer matrix by rows."""
    return cast("list[list[int]]", _listed(tensor))


def floats(tensor: torch.Tensor) -> list[float]:
    """Return the elements of a float tensor in order."""
    return cast("list[float]", _listed(tensor.flatten()))


def float_rows(tensor: torch.Tensor) -> list[list[float]]:
    """Return a float matrix by rows."""
    return cast("list[list[float]]", _listed(tensor))


def _listed(tensor: torch.Tensor) -> list[Any]:
    return cast("Any", tensor).tolist()
