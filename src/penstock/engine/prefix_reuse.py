"""What sequences take over from others with the same beginning: blocks, and the state behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.engine.kv_cache import extend_digests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.kv_cache import BlockPool
    from penstock.engine.sequence import Sequence
    from penstock.engine.states import StatePool

LEAST_BLOCKS: Final = 4
"""Blocks for which a state is kept: fewer are computed sooner than a prompt is cut for them."""


class PrefixReuse:
    """Prefix caching over the pools of blocks and states. The engine's thread owns it.

    Without `states` a sequence starts behind all blocks of its prefix that are cached. With them it
    starts where a state is kept too. That is so at the end of a prompt's full blocks; where a
    prompt left another's way, once a second one did; and behind the newest blocks of an answer.
    """

    def __init__(self, pool: BlockPool, states: StatePool | None) -> None:
        self.pool = pool
        self.states = states

    def match(self, sequence: Sequence) -> tuple[list[int], int]:
        """Return the cached blocks of a sequence's prefix, and how many of them it can take over.

        At least one token stays to be computed.
        """
        if not self.pool.caching or sequence.needs_prompt_rows:  # cached tokens give no logits
            return [], 0
        size = self.pool.block_size
        extend_digests(sequence.digests, sequence.token_ids, size)
        digests = sequence.digests[: (len(sequence.token_ids) - 1) // size]
        blocks = self.pool.match(digests)
        if self.states is None:
            return blocks, len(blocks)
        return blocks, self.states.longest(digests[: len(blocks)])

    def awaits(self, sequence: Sequence, block: int, running: Iterable[Sequence]) -> bool:
        """Whether a running sequence is computing this block of a waiting one's prompt.

        With states: whether one will keep a state behind it that the waiting one can start from.
        """
        last = (len(sequence.token_ids) - 1) // self.pool.block_size
        if sequence.needs_prompt_rows or block >= last:
            return False
        if self.states is None:
            return any(
                other.registered_blocks <= block < len(other.digests)
                and other.digests[block] == sequence.digests[block]
                for other in running
            )
        return any(
            other.registered_blocks < mark <= last
            and block < mark <= len(other.digests)
            and other.digests[mark - 1] == sequence.digests[mark - 1]
            for other in running
            for mark in other.state_marks
        )

    def begin(self, sequence: Sequence, cached: int, taken: int) -> None:
        """Give a sequence that starts to run its state: that behind `taken` of its `cached` blocks."""
        if self.states is None:
            return
        sequence.state = self.states.take(sequence.digests[taken - 1] if taken else None)
        if self.pool.caching:
            last = (len(sequence.token_ids) - 1) // self.pool.block_size
            marks = (mark for mark in {cached, last} if mark - taken >= LEAST_BLOCKS)
            sequence.state_marks = tuple(sorted(marks))

    def cut(self, sequence: Sequence, tokens: int) -> int:
        """Return how many of its next `tokens` a sequence computes until its state is to be kept."""
        size = self.pool.block_size
        left = (mark * size - sequence.computed for mark in sequence.state_marks)
        return min((count for count in left if 0 < count < tokens), default=tokens)

    def note(self, sequence: Sequence) -> None:
        """Let others find what a sequence has computed: its full blocks, and its state behind them."""
        pool = self.pool
        full = sequence.computed // pool.block_size
        if full <= sequence.registered_blocks or not pool.caching:
            return
        extend_digests(sequence.digests, sequence.token_ids, pool.block_size)
        for index in range(sequence.registered_blocks, full):
            pool.register(sequence.block_table[index], sequence.digests[index])
        sequence.registered_blocks = full
        if self.states is not None and sequence.computed == full * pool.block_size:
            self._keep_state(self.states, sequence, full)

    def end(self, sequence: Sequence) -> None:
        """Take back the blocks and the state of a sequence that runs no longer."""
        self.pool.release(sequence.block_table)
        if self.states is not None and sequence.state >= 0:
            self.states.release(sequence.state)
        sequence.rewind()

    def _keep_state(self, states: StatePool, sequence: Sequence, blocks: int) -> None:
        digest = sequence.digests[blocks - 1]
        if blocks in sequence.state_marks:
            states.keep(digest, sequence.state)
        elif sequence.remaining <= 1 and blocks % LEAST_BLOCKS == 0:
            states.keep(digest, sequence.state)
            if sequence.kept_state is not None:
                states.forget(sequence.kept_state)
            sequence.kept_state = digest
