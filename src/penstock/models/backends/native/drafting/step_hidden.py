"""What a step of the kernels takes and gives of hidden states, for drafting from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.models.backends.native.library import address_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StepHidden:
    """Hidden states beside those of a step's rows.

    `logit_rows` are the rows that have logits, None for all. With `before_norm` the rows' hidden
    states are those before the final norm. Those of all tokens before `tap_layers` are written to
    `tapped`, (taps, tokens, hidden). `beside`, (tokens, hidden), is the other input of wide layers.
    """

    logit_rows: NDArray[np.int32] | None = None
    before_norm: bool = False
    tap_layers: NDArray[np.int32] | None = None
    tapped: NDArray[np.float32] | None = None
    beside: NDArray[np.float32] | None = None

    def native(self, tokens: int, hidden: int) -> tuple[Any, ...]:
        """Return the last fields of `StepInput`, for a step of so many tokens.

        :raises ValueError: an array has another shape or type.
        """
        taps = 0 if self.tap_layers is None else len(self.tap_layers)
        if taps and (self.tapped is None or self.tapped.shape != (taps, tokens, hidden)):
            raise ValueError("no room for the hidden states before some layers")
        if self.beside is not None and self.beside.shape != (tokens, hidden):
            raise ValueError(f"inputs {self.beside.shape} beside {tokens} of {hidden}")
        return (
            None if self.logit_rows is None else address_of(self.logit_rows, np.int32),
            0 if self.logit_rows is None else len(self.logit_rows),
            int(self.before_norm),
            taps,
            None if self.tap_layers is None else address_of(self.tap_layers, np.int32),
            None if self.tapped is None else address_of(self.tapped, np.float32),
            None if self.beside is None else address_of(self.beside, np.float32),
        )


PLAIN: Final = StepHidden()
"""Of a step that nobody drafts from."""
