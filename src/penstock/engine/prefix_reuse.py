"""What sequences reuse of others with the same beginning: blocks, and the state after them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from penstock.engine.reuse.digests import extend_digests
from penstock.engine.reuse.held_heads import HeldHeads
from penstock.engine.reuse.stored_blocks import Loading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.kv_cache import BlockTables
    from penstock.engine.reuse.stored_blocks import StoredBlocks
    from penstock.engine.sequence import Sequence
    from penstock.engine.states import StatePool

LEAST_BLOCKS: Final = 4
"""Least blocks between states that are kept: for fewer, cutting a prompt costs more than it saves."""


class PrefixReuse:
    """Prefix caching over the pools of blocks and states. Owned by the engine's thread.

    Without `states` a sequence starts after all cached blocks of its prefix (of layers with a window,
    the last ones are enough). With them, a state must be kept there too. States are kept at the end
    of a prompt's full blocks; at the point where a prompt diverges from another, once a second one
    has done so; and after the newest blocks of an answer.
    """

    def __init__(
        self, tables: BlockTables, states: StatePool | None, stored: StoredBlocks | None = None
    ) -> None:
        self.tables = tables
        self.pool = pool = tables.pools[0]
        self.states = states
        self.stored = stored
        self.heads = HeldHeads(pool.holds)
        self.saving_s = 0.0
        """Seconds that states took to be saved before this step's drafts."""

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many blocks of a sequence's prefix are cached, and how many it can reuse.

        At least one token remains to be computed.
        """
        if not self.pool.caching or sequence.needs_prompt_rows:  # cached tokens give no logits
            return 0, 0
        size = self.pool.block_size
        _extend(sequence, size)
        digests = sequence.digests[: (len(sequence.token_ids) - 1) // size]
        counts = self.tables.reusable(digests)
        cached = counts[-1] if counts else 0
        if self.states is None:
            return cached, cached
        holds = self.states.holds
        return cached, next((n for n in reversed(counts) if holds(digests[n - 1])), 0)

    def expect(self, sequence: Sequence) -> None:
        """Begin to read what the store has of a waiting sequence."""
        if self.stored is None:
            return
        _, taken = self.match(sequence)
        if sequence.digests and not sequence.needs_prompt_rows:  # loaded tokens give no logits
            self.stored.expect(sequence, taken)

    def begin_step(self, *, beside: bool) -> None:
        """Give the loading of a step its time, `beside` sequences that are computed in it or alone."""
        self.saving_s = 0.0
        if self.stored is not None:
            self.stored.begin_step(beside=beside)

    def wait(self, running: Iterable[Sequence]) -> None:
        """Wait a moment for what is loaded: there is nothing else to compute."""
        if self.stored is not None:
            self.stored.wait(running)

    def load(self, sequence: Sequence) -> bool:
        """Load the next blocks of a running sequence; return whether it has to wait for more."""
        if self.stored is None:
            return False
        before = sequence.computed
        loading = self.stored.load(sequence)
        if sequence.computed > before and sequence.is_new:
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_length)
        if sequence.computed > before and self.states is not None:
            blocks = sequence.computed // self.pool.block_size
            self.states.keep(sequence.digests[blocks - 1], sequence.state)
        return loading is Loading.GOES_ON

    def awaits(self, sequence: Sequence, block: int, running: Iterable[Sequence]) -> bool:
        """Return whether a running sequence is computing this block of a waiting one's prompt.

        With states: whether it will keep a state after it that the waiting one can start from.
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
        """Give a starting sequence its state: the one after `taken` of its `cached` blocks."""
        if self.stored is not None:
            self.stored.begin(sequence)
        if self.states is None:
            return
        sequence.state = self.states.take(sequence.digests[taken - 1] if taken else None)
        if self.pool.caching:
            last = (len(sequence.token_ids) - 1) // self.pool.block_size
            marks = (mark for mark in {cached, last} if mark - taken >= LEAST_BLOCKS)
            sequence.state_marks = tuple(sorted(marks))

    def cut(self, sequence: Sequence, tokens: int) -> int:
        """Return how many of its next `tokens` a sequence computes before its state is to be kept."""
        size = self.pool.block_size
        left = (mark * size - sequence.computed for mark in sequence.state_marks)
        return min((count for count in left if 0 < count < tokens), default=tokens)

    def save(self, sequence: Sequence, *, spare: int) -> bool:
        """Save a sequence's state before a draft, if it has one; False if there is no place for it.

        `spare` places are left for sequences that may start in this step.
        """
        if self.states is None:
            return True
        started_s = time.perf_counter()
        place = self.states.save(sequence.state, spare=spare)
        self.saving_s += time.perf_counter() - started_s
        if place is not None:
            sequence.saved_state = place
        return place is not None

    def settle(self, sequence: Sequence, *, right: bool) -> bool:
        """Give up the state saved before a draft, unless the draft was `right` by returning to it.

        Returns whether the sequence has returned to it.
        """
        if self.states is None or sequence.saved_state < 0:
            return False
        if not right:
            self.states.restore(sequence.saved_state, sequence.state)
        self.states.release(sequence.saved_state)
        sequence.saved_state = -1
        return not right

    def note(self, sequence: Sequence) -> None:
        """Publish what a sequence has computed: its full blocks, and its state after them.

        Then its blocks behind the window are released.
        """
        self._publish(sequence)
        self.tables.slide(sequence)

    def _publish(self, sequence: Sequence) -> None:
        pool = self.pool
        full = sequence.computed // pool.block_size
        if full <= sequence.registered_blocks or not pool.caching:
            return
        _extend(sequence, pool.block_size)
        for index in range(sequence.registered_blocks, full):
            self.tables.register(sequence, index)
            if self.stored is not None:
                self.stored.save(sequence, index)
        sequence.registered_blocks = full
        if self.states is not None and sequence.computed == full * pool.block_size:
            self._keep_state(self.states, sequence, full)

    def end(self, sequence: Sequence) -> None:
        """Take back the blocks and the state of a sequence that has stopped running."""
        if self.stored is not None:
            self.stored.end(sequence)
        if sequence.request.head:
            blocks = min(sequence.registered_blocks, sequence.prompt_length // self.pool.block_size)
            self.heads.add(sequence.request.head, sequence.digests[blocks - 1] if blocks else None)
        self.tables.release(sequence)
        if self.states is not None and sequence.state >= 0:
            self._save_last_state(self.states, sequence)
            self.settle(sequence, right=True)
            self.states.release(sequence.state)
        sequence.rewind()

    def _save_last_state(self, states: StatePool, sequence: Sequence) -> None:
        """Have the state after the newest blocks of an answer written: the next turn begins there."""
        if self.stored is not None and sequence.kept_state is not None:
            place = states.place_of(sequence.kept_state)
            if place is not None:
                self.stored.save_state(sequence.kept_state, place)

    def _keep_state(self, states: StatePool, sequence: Sequence, blocks: int) -> None:
        digest = sequence.digests[blocks - 1]
        if blocks in sequence.state_marks:
            states.keep(digest, sequence.state)
            if self.stored is not None:
                self.stored.save_state(digest, sequence.state)
        elif sequence.remaining <= 1 and blocks % LEAST_BLOCKS == 0:
            states.keep(digest, sequence.state)
            if sequence.kept_state is not None:
                states.forget(sequence.kept_state)
            sequence.kept_state = digest


def _extend(sequence: Sequence, block_size: int) -> None:
    request = sequence.request
    extend_digests(
        sequence.digests,
        sequence.token_ids,
        block_size,
        request.images,
        request.cache_owner,
        request.adapter,
    )
