"""A step of a model with a head that drafts: it computes the hidden states that the head will read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np

from penstock.models.backends.native.drafting.step_hidden import StepHidden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.engine.model import Batch, SequenceSlice
    from penstock.models.backends.native.drafting.trails import Trails


class Compute(Protocol):
    """Computes a step's layers and writes logits and hidden states of its rows in place."""

    def __call__(
        self,
        rows: NDArray[np.int32],
        logits: NDArray[np.float32],
        hidden: NDArray[np.float32],
        inner: StepHidden,
    ) -> None:
        """`inner` is what the step takes and gives beside."""
        ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model: of its logits, and of its hidden states."""

    vocab: int
    hidden: int


@dataclass(frozen=True, slots=True)
class FollowedStep:
    """A batch whose `rows` have logits, computed by `compute`; `trails` notes what the head reads."""

    compute: Compute
    trails: Trails
    batch: Batch
    rows: NDArray[np.int32]
    sizes: Sizes

    def run(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits, (rows, vocab), and the rows' hidden states, (rows, hidden)."""
        self.trails.begin(self.batch.slices)
        firsts = [0, *accumulate(len(part.token_ids) for part in self.batch.slices)]
        return self._tapped(firsts) if self.trails.taps else self._with_rows(firsts)

    def _tapped(self, firsts: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The head reads hidden states of all tokens before some layers."""
        logits = np.empty((len(self.rows), self.sizes.vocab), np.float32)
        hidden = np.empty((len(self.rows), self.sizes.hidden), np.float32)
        layers = np.array(self.trails.taps, np.int32)
        tapped = np.empty((len(layers), firsts[-1], self.sizes.hidden), np.float32)
        self.compute(self.rows, logits, hidden, StepHidden(tap_layers=layers, tapped=tapped))
        for part, first in self._followed(firsts):
            own = tapped[:, first : first + len(part.token_ids)].transpose(1, 0, 2)
            self.trails.add(part, np.ascontiguousarray(own).reshape(len(part.token_ids), -1))
        return logits, hidden

    def _with_rows(self, firsts: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The head reads the last hidden states of all tokens; logits are for `rows` alone."""
        wanted = np.zeros(firsts[-1], bool)
        wanted[self.rows] = True
        for part, first in self._followed(firsts):
            wanted[first : first + len(part.token_ids)] = True
        every = np.flatnonzero(wanted).astype(np.int32)
        own = np.searchsorted(every, self.rows).astype(np.int32)
        hidden = np.empty((len(every), self.sizes.hidden), np.float32)
        # The kernels compute what adapters add to the head for all of a step's rows.
        adapted = any(part.adapter is not None for part in self.batch.slices)
        logits = np.empty((len(every if adapted else own), self.sizes.vocab), np.float32)
        self.compute(every, logits, hidden, StepHidden(logit_rows=None if adapted else own))
        places = np.cumsum(wanted) - 1
        for part, first in self._followed(firsts):
            begin = int(places[first])
            self.trails.add(part, hidden[begin : begin + len(part.token_ids)].copy())
        return (logits[own] if adapted else logits), hidden[own]

    def _followed(self, firsts: list[int]) -> Iterator[tuple[SequenceSlice, int]]:
        """Yield the slices of sequences that the head follows, and the first row of each."""
        for part, first in zip(self.batch.slices, firsts, strict=False):
            if self.trails.follows(part.key):
                yield part, first
