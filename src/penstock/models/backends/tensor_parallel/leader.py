"""Rank 0: sends each operation to the other ranks, and runs it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.errors import PenstockError
from penstock.models.backends.tensor_parallel.messages import Operation, compute_message, message
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from penstock.engine.pipelining import Flight
    from penstock.models.backends.lean.adapters import StepAdapters
    from penstock.models.backends.lean.body import Body
    from penstock.models.backends.lean.graphs.step_rows import Packed
    from penstock.models.backends.tensor_parallel.team import Team


class Leader:
    """See `penstock.models.backends.lean.computer.Computer`.

    After a step that failed the ranks may be out of step with each other: any failure is the last.
    """

    def __init__(self, body: Body, team: Team) -> None:
        self._body = body
        self._team = team

    def allocate(self, blocks: int, sequences: int) -> None:
        """See `Computer`."""
        self._team.send(message(Operation.ALLOCATE, blocks, sequences))
        try:
            self._body.allocate(blocks, sequences)
        finally:
            self._team.answers()

    def capture(self) -> None:
        """See `Computer`."""
        with self._together():
            self._team.send(message(Operation.CAPTURE))
            self._body.capture()
            self._team.answers()

    def note(self, row: int, blocks: Sequence[int]) -> None:
        """See `Computer`."""
        with self._together():
            self._team.send(message(Operation.NOTE, row, blocks))
            self._body.note(row, blocks)

    def compute(self, packed: Packed, *, hidden: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Computer`."""
        with self._together():
            self._team.send(compute_message(packed, hidden=hidden))
            return self._body.compute(packed, hidden=hidden)

    def launch(
        self,
        fields: NDArray[np.int32],
        draws: NDArray[np.int32],
        adapters: StepAdapters | None = None,
    ) -> Flight:
        """See `Computer`."""
        assert adapters is None  # noqa: S101 - such a model takes none
        with self._together():
            self._team.send(message(Operation.LAUNCH, fields.shape[1], fields, draws))
            return self._body.launch(fields, draws)

    def free_bytes(self) -> int:
        """See `Computer`: the least, which all must live with."""
        self._team.send(message(Operation.FREE_BYTES))
        own = self._body.free_bytes()
        # In MiB, which an int32 on the other side holds.
        return min(own, *(value << 20 for value in self._team.answers()))

    @contextmanager
    def _together(self) -> Generator[None]:
        """:raises EngineFailed: whatever went wrong."""
        if self._team.failure is not None:
            raise self._team.failure
        try:
            yield
        except PenstockError:
            raise
        except Exception as error:
            why = f"a step of {self._team.ranks} ranks failed: {checkpoint.first_line(error)}"
            raise self._team.lost(why) from error
