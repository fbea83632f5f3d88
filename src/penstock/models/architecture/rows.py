"""A part of a checkpoint's matrix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """`rows` rows of the matrix `name`, from `first` on, out of `total` (0: there are no others).

    They are neighbours; or, where parts alternate in a matrix, `run` of every `period` rows.
    """

    name: str
    rows: int
    first: int = 0
    total: int = 0
    run: int = 0
    period: int = 0

    @property
    def tensor_rows(self) -> int:
        """The number of rows of the checkpoint's matrix."""
        return self.total or self.rows
