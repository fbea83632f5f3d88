"""Drafts by a head that reads the model's own hidden states."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard, runtime_checkable

import torch

from penstock.engine.model import Batch, SequenceSlice

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from penstock.engine.drafting.draft_model import DraftModel
    from penstock.engine.drafting.speculation import ModelDrafts
    from penstock.engine.kv_cache import BlockTables
    from penstock.engine.model import Model
    from penstock.engine.sequence import Sequence

logger = logging.getLogger(__name__)

_WEIGHT: Final = 0.1
"""Weight of the newest pass in the time that a pass takes."""


@runtime_checkable
class HeadedModel(Protocol):
    """A model with a head that drafts from its hidden states, if it has a `draft_kind`.

    The head has keys and values of its own in the model's blocks.
    """

    context_length: int

    @property
    def draft_kind(self) -> str:
        """What the head is, such as `mtp`; empty if there is none."""
        ...

    def draft(self, batch: Batch, count: int) -> list[list[int]]:
        """Return up to `count` tokens after each slice; none for those that cannot be continued.

        A slice is of the token that `forward` computes next. Its blocks have room for the tokens that
        are drafted, but the last.
        """
        ...

    def rest(self, *, resting: bool) -> None:
        """While resting, leave out most sequences that are new, which saves their computing."""
        ...


class HeadDrafts:
    """Continues sequences greedily by a model's head, one token a pass.

    Its keys and values lie in the sequences' own blocks; a draft may take blocks that the next steps
    need anyway, but none that others wait for. After an error of the head there are no more drafts.
    The engine's thread owns it.
    """

    def __init__(self, head: HeadedModel, tables: BlockTables, *, spare_blocks: int) -> None:
        """A draft takes a new block if more than `spare_blocks` are free."""
        self._head = head
        self._tables = tables
        self._spare_blocks = spare_blocks
        self._broken = False
        self.kind = head.draft_kind
        self.pass_s = 0.0
        """Seconds that one more token of all drafts takes; 0 before any was measured."""

    def draft(self, sequences: Tokens[Sequence], count: int) -> dict[int, list[int]]:
        """Return up to `count` tokens for each sequence that the head has read, by sequence key."""
        ready = [sequence for sequence in sequences if self._fits(sequence, count)]
        if self._broken or count < 1 or not ready:
            return {}
        slices = [
            SequenceSlice(
                sequence.key,
                sequence.token_ids[-1:],
                len(sequence.token_ids) - 1,
                sequence.block_table,
                logits_from=0,
            )
            for sequence in ready
        ]
        started_s = time.perf_counter()
        try:
            with torch.inference_mode():
                drafts = self._head.draft(Batch(slices), count)
        except Exception:
            logger.exception("The head that drafts has failed: nothing more is drafted by it")
            self._broken = True
            return {}
        if any(drafts):
            pass_s = (time.perf_counter() - started_s) / count
            self.pass_s += (pass_s - self.pass_s) * (_WEIGHT if self.pass_s else 1.0)
        return {sequence.key: draft for sequence, draft in zip(ready, drafts, strict=True) if draft}

    def rest(self, *, resting: bool) -> None:
        """Have the head follow few new sequences, or all of them again."""
        self._head.rest(resting=resting)

    def forget(self, key: int) -> None:
        """Do nothing: the model itself forgets a sequence."""

    def _fits(self, sequence: Sequence, count: int) -> bool:
        """Give a sequence the blocks that the head writes to, or return False."""
        tokens = len(sequence.token_ids) + count - 2
        if count == 1:
            return True
        if tokens > min(
            self._head.context_length, self._tables.room(sequence, spare=self._spare_blocks)
        ):
            return False
        return self._tables.extend(sequence, tokens)


def has_head(model: object) -> TypeGuard[HeadedModel]:
    """Return whether a model has a head that drafts."""
    return isinstance(model, HeadedModel) and bool(model.draft_kind)


def model_drafts(
    model: Model, tables: BlockTables, draft_model: DraftModel | None, *, spare_blocks: int
) -> ModelDrafts | None:
    """Return what drafts if no text suggests how to go on: a second model, or a head of the first."""
    if draft_model is not None:
        return draft_model
    if has_head(model):
        return HeadDrafts(model, tables, spare_blocks=spare_blocks)
    return None
