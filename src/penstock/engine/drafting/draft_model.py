"""Drafts by a second, smaller model with the same tokens."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from penstock.engine.kv_cache import BlockTables
from penstock.engine.model import Batch, SequenceSlice
from penstock.engine.sampling.tensor_lists import integers

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from penstock.engine.model import Model
    from penstock.engine.sequence import Sequence

logger = logging.getLogger(__name__)

READ_TOKENS: Final = 512
"""Tokens of new texts that the model reads before one step: a longer prompt takes several."""

_WEIGHT: Final = 0.1
"""Weight of the newest pass in the time that a pass takes."""


@dataclass(slots=True)
class _Text:
    """What the model's cache has of a sequence: the tokens at its first places, and its blocks.

    The first `right` of the tokens are known to be the sequence's own.
    """

    cached: list[int] = field(default_factory=list[int])
    right: int = 0
    block_table: list[int] = field(default_factory=list[int])
    window_table: list[int] = field(default_factory=list[int])
    dropped_blocks: int = 0

    @property
    def computed(self) -> int:
        """Tokens that are not read again: all known ones but the last."""
        return max(0, self.right - 1)

    def slice_of(self, key: int, part: Tokens[int], start: int, logits_from: int) -> SequenceSlice:
        """Return a part of the text for the model."""
        table, windows = self.block_table, self.window_table
        return SequenceSlice(key, part, start, table, logits_from, window_table=windows)


class DraftModel:
    """Continues texts greedily by a model with its own KV cache, one token a pass.

    It reads what sequences have got since, also where its own last draft was wrong. A sequence whose
    blocks do not fit gets no draft. Layers with a window give back the blocks behind it. After an
    error of the model there are no more drafts. The engine's thread owns it.
    """

    def __init__(
        self, model: Model, num_blocks: int, vocab_size: int, window_blocks: int = 0
    ) -> None:
        """`vocab_size` is that of the model which verifies: tokens beyond it are not drafted.

        Layers with a window have `window_blocks`; 0: those of all layers.
        """
        self._model = model
        self._vocab_size = min(vocab_size, model.vocab_size)
        self._tables = BlockTables.of(model.kv_layout, num_blocks, window_blocks, caching=False)
        self._texts: dict[int, _Text] = {}
        self._broken = False
        self.kind = "model"
        self.pass_s = 0.0
        """Seconds that one more token of all drafts takes; 0 before any was measured."""

    def draft(self, sequences: Tokens[Sequence], count: int) -> dict[int, list[int]]:
        """Return `count` tokens for each sequence that the model has read, by sequence key."""
        if self._broken or count < 1:
            return {}
        try:
            with torch.inference_mode():
                return self._draft(sequences, count)
        except Exception:
            logger.exception("The draft model failed: nothing more is drafted by it")
            self._broken = True
            return {}

    def rest(self, *, resting: bool) -> None:
        """Do nothing: it reads a text only when it drafts."""

    def forget(self, key: int) -> None:
        """Drop what is cached of a sequence."""
        text = self._texts.pop(key, None)
        if text is not None:
            self._tables.release(text)
            self._model.release(key)

    def _draft(self, sequences: Tokens[Sequence], count: int) -> dict[int, list[int]]:
        ready, first = self._read(sequences, count)
        if not ready:
            return {}
        drafts = {sequence.key: [token] for sequence, token in zip(ready, first, strict=True)}
        for _ in range(count - 1):
            started_s = time.perf_counter()
            slices = [self._next(sequence, drafts[sequence.key]) for sequence in ready]
            chosen = self._best(slices)
            for sequence, token in zip(ready, chosen, strict=True):
                self._texts[sequence.key].cached.append(drafts[sequence.key][-1])
                drafts[sequence.key].append(token)
            taken_s = time.perf_counter() - started_s
            self.pass_s += (taken_s - self.pass_s) * (_WEIGHT if self.pass_s else 1.0)
        return drafts

    def _read(self, sequences: Tokens[Sequence], count: int) -> tuple[list[Sequence], list[int]]:
        """Compute the texts' new tokens; return those that are whole, with their next tokens."""
        slices: list[SequenceSlice] = []
        ready: list[Sequence] = []
        left = READ_TOKENS
        for sequence in sequences:
            text = self._kept(sequence)
            start, length = text.right, len(sequence.token_ids)
            end = min(length, start + left)
            part = sequence.token_ids[start:end]
            whole = end == length
            if not part or not self._fits(text, sequence, end + (count if whole else 0)):
                continue
            if max(part) >= self._model.vocab_size:  # tokens that this model does not have
                self.forget(sequence.key)
                continue
            logits_from = len(part) - 1 if whole else len(part)
            slices.append(text.slice_of(sequence.key, part, start, logits_from))
            text.cached[start:] = part
            text.right = end
            left -= len(part)
            if whole:
                ready.append(sequence)
        if not slices:
            return [], []
        return ready, self._best(slices)

    def _kept(self, sequence: Sequence) -> _Text:
        """Return what is cached of a sequence; its last token is always read again."""
        text = self._texts.setdefault(sequence.key, _Text())
        tokens = sequence.token_ids
        self._tables.slide(text)
        least = min(len(text.cached), len(tokens) - 1)
        right = min(text.right, least)
        while right < least and text.cached[right] == tokens[right]:
            right += 1
        text.right = right
        return text

    def _fits(self, text: _Text, sequence: Sequence, length: int) -> bool:
        """Give a text the blocks for `length` tokens; if there are none, drop what is cached."""
        if length > self._model.context_length or not self._tables.extend(text, length):
            self.forget(sequence.key)
            return False
        return True

    def _best(self, slices: list[SequenceSlice]) -> list[int]:
        logits = self._model.forward(Batch(slices))
        return integers(logits[:, : self._vocab_size].argmax(dim=1))

    def _next(self, sequence: Sequence, draft: list[int]) -> SequenceSlice:
        text = self._texts[sequence.key]
        start = len(sequence.token_ids) + len(draft) - 1
        return text.slice_of(sequence.key, [draft[-1]], start, 0)
