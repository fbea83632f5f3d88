"""Images in a prompt: the embeddings that stand in place of those of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """A run of an image's tokens from position `start` of the prompt on.

    `embeddings` are (tokens, hidden). `layer_features` are added to the hidden states after the
    decoder's first layers, one tensor a layer, (tokens, hidden) each; most models have none.
    `digest` identifies the image, the way in which the model reads it, and the run within it.
    The tokens of a `mutual` run see each other, later ones too, and are computed in one step.
    """

    start: int
    embeddings: torch.Tensor
    digest: bytes
    layer_features: tuple[torch.Tensor, ...] = ()
    mutual: bool = False

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.embeddings)


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """A prompt's images, the spans in order.

    `rotary_positions` are (3, prompt tokens): the time, height and width by which multimodal rotary
    embeddings turn each token; None for models that turn it by its position alone.
    """

    spans: tuple[ImageSpan, ...]
    rotary_positions: torch.Tensor | None = None

    def within(self, start: int, end: int) -> Iterator[tuple[ImageSpan, slice, slice]]:
        """Yield the spans that positions `start` to `end - 1` overlap.

        Each comes with the overlap's rows of the span, and of the positions from `start` on.
        """
        for span in self.spans:
            first, last = max(start, span.start), min(end, span.end)
            if first < last:
                yield (
                    span,
                    slice(first - span.start, last - span.start),
                    slice(first - start, last - start),
                )

    def mutual(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Return (first, last + 1) of the mutual runs in positions `start` to `end - 1`."""
        return tuple(
            (span.start, span.end) for span, _, _ in self.within(start, end) if span.mutual
        )

    def chunk_end(self, start: int, end: int) -> int:
        """Return where a chunk of positions `start` to `end - 1` ends if it splits no mutual run.

        It is later than `end` if the chunk begins with a run, or within one.
        """
        for first, after in self.mutual(end - 1, end):
            if after > end:
                return after if first <= start else first
        return end

    def digest(self, start: int, end: int) -> bytes:
        """Return what identifies the images at positions `start` to `end - 1`."""
        return b"".join(
            span.digest + span.start.to_bytes(8, "little") for span, _, _ in self.within(start, end)
        )

    def turns(self, start: int, end: int) -> torch.Tensor:
        """Return the rotary positions of `start` to `end - 1`, (3, end - start).

        Tokens after the prompt go on from its highest position, all three alike.
        """
        known = self.rotary_positions
        if known is None:
            return torch.arange(start, end).expand(3, -1)
        length = known.shape[1]
        shift = int(known.max()) + 1 - length
        after = torch.arange(max(start, length) + shift, max(end, length) + shift)
        return torch.cat((known[:, start:end], after.expand(3, -1)), dim=1)
