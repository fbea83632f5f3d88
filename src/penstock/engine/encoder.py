"""The model boundary of encoders: texts in, one vector for each out; no cache, no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """One text, or a pair; `token_types` is empty for a single text."""

    token_ids: Sequence[int]
    token_types: Sequence[int] = ()


class Encoder(Protocol):
    """A loaded encoder on one device. Only the engine's thread calls it."""

    vocab_size: int
    context_length: int

    def encode(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        """Compute a vector for each input: (inputs, dimensions) float32 on the CPU.

        An input's vector does not depend on the others, except for rounding.
        """
        ...
