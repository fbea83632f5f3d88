"""The form that an answer must have, as the engine sees it: a mask for each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTE_BITS: Final = 8


class Constraint(Protocol):
    """Which tokens may come next in one sequence. The engine's thread owns it from `submit` on.

    Its state depends only on the tokens that it got, so another worker can replay the journal's
    tokens and continue exactly.
    """

    @property
    def complete(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        ...

    def mask(self, ahead: Sequence[int] = ()) -> bytes:
        """Return a bit for each token, the lowest first: set if the token may come next.

        Ending tokens are included if the text may end here. At least one bit is set. With tokens
        `ahead` it is the mask after these, empty if they do not fit; they are not kept.

        :raises UnsupportedFeature: the form is too complex to go on.
        """
        ...

    def advance(self, token_id: int) -> None:
        """Add a token.

        :raises UnsupportedFeature: the form is too complex to go on.
        :raises EngineFailed: the token does not fit.
        """
        ...


def forbid(logits: torch.Tensor, rows: Sequence[int], masks: Sequence[bytes]) -> None:
    """Set the logits of all tokens that their row's mask forbids to -inf, in place.

    `logits` is (n, vocab) float32; a token beyond its mask is not allowed.
    """
    vocab = logits.shape[1]
    for row, mask in zip(rows, masks, strict=True):
        bits = np.frombuffer(mask, dtype=np.uint8)[: -(-vocab // _BYTE_BITS)]
        allowed = np.unpackbits(bits, count=min(vocab, len(bits) * _BYTE_BITS), bitorder="little")
        banned = torch.ones(vocab, dtype=torch.bool)
        banned[: len(allowed)] = torch.as_tensor(allowed == 0)
        logits[row].masked_fill_(banned.to(logits.device), -torch.inf)
