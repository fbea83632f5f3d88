"""Which sequences a step computes: decoding first, then prompts in chunks."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from penstock.engine.prefix_reuse import PrefixReuse
from penstock.engine.step import Step, next_slice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.engine.kv_cache import BlockTables
    from penstock.engine.reuse.stored_blocks import StoredBlocks
    from penstock.engine.sequence import Sequence
    from penstock.engine.states import StatePool

_rank: Final = attrgetter("rank")


class Scheduler:
    """Waiting and running sequences, their blocks and states. The engine's thread owns it.

    Sequences are served by `rank`. A running one that needs a block when none is free takes those
    of the last by rank (recompute preemption). So the first one always goes on and, as each fits
    into the cache alone, every one ends.
    """

    def __init__(
        self,
        tables: BlockTables,
        slots: int,
        states: StatePool | None = None,
        stored: StoredBlocks | None = None,
    ) -> None:
        self.tables = tables
        self.pool = tables.pools[0]
        self.stateful = states is not None
        self._reuse = PrefixReuse(self.tables, states, stored)
        self.slots = slots
        self.limit = slots
        """Sequences that run at once; less than `slots` after the device ran out of memory."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    @property
    def saving_s(self) -> float:
        """Seconds that states took to be saved before the last step's drafts."""
        return self._reuse.saving_s

    def lost_heads(self) -> list[str]:
        """Return the heads of prompts that the prefix cache has dropped; any thread."""
        return self._reuse.heads.lost()

    def add(self, sequence: Sequence) -> None:
        """Put a sequence among the waiting ones."""
        insort(self.waiting, sequence, key=_rank)
        self._reuse.expect(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a running or waiting sequence and free its blocks."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._reuse.end(sequence)

    def preempt_last(self) -> Sequence:
        """Move the last running sequence to the waiting ones: its blocks go, its tokens stay."""
        return self.preempt(max(self.running, key=_rank))

    def preempt(self, sequence: Sequence) -> Sequence:
        """Move a running sequence to the waiting ones, likewise."""
        self.remove(sequence)
        self.add(sequence)
        return sequence

    @property
    def is_alone(self) -> bool:
        """Whether there is one sequence, running or waiting, and its prompt only has to be read.

        Each token of a prompt that is scored or embedded takes memory of its own.
        """
        if len(self.running) + len(self.waiting) != 1:
            return False
        (sequence,) = self.running or self.waiting
        return not sequence.needs_prompt_rows

    def decoding(self) -> list[Sequence]:
        """Return the running sequences whose prompt is computed: each step gives them a token."""
        return [sequence for sequence in self.running if sequence.remaining == 1]

    def schedule(
        self, prefill_tokens: int, drafts: Mapping[int, list[int]] = MappingProxyType({})
    ) -> Step:
        """Choose the next step's work, with at most `prefill_tokens`, and allocate its blocks.

        `drafts` are by sequence key; they are cut to the room in the cache.
        """
        step = Step()
        self._reuse.begin_step(beside=bool(self.decoding()))
        self._allocate_next(step)
        size = self.pool.block_size
        prefilling: list[Sequence] = []
        for sequence in self.running:
            if sequence.remaining == 1 or sequence.replays:
                draft = drafts.get(sequence.key) if sequence.remaining == 1 else None
                fitting = self._fit_draft(sequence, draft) if draft else ()
                step.add(sequence, sequence.remaining, size, fitting)
            else:
                prefilling.append(sequence)
        step.decode_tokens = sum(len(part.token_ids) for part in step.slices)
        for sequence in prefilling:
            self._add_chunk(step, sequence, prefill_tokens)
        while step.prefill_tokens < prefill_tokens and self.waiting and self._admit():
            self._add_chunk(step, self.running[-1], prefill_tokens)
        if not step.sequences:
            self._reuse.wait(self.running)
        return step

    def follow(self, step: Step) -> Step:
        """Choose the step after one of plain decoding whose tokens are still unknown.

        It is empty if it cannot be known yet: a waiting sequence may be admitted, a running one is
        not in `step`, all of them end with it, or blocks are short.
        """
        if self.waiting and len(self.running) < self.limit:
            return Step()
        decoding = {id(sequence) for sequence in step.sampled}
        if any(id(sequence) not in decoding for sequence in self.running):
            return Step()
        size = self.pool.block_size
        following = [s for s in self.running if len(s.token_ids) + 1 < s.max_length]
        growing = [s for s in following if self.tables.lacks(s, len(s.token_ids) + 1)]
        if not following or not all(
            self.tables.extend(sequence, len(sequence.token_ids) + 1) for sequence in growing
        ):
            return Step()
        count = len(following)
        slices = [next_slice(sequence, size) for sequence in following]
        return Step(following, slices, following, drafts=[()] * count, decode_tokens=count)

    def advance(self, step: Step) -> None:
        """Record that a step has been computed; its sequences already have their new tokens.

        Rejected draft tokens do not count as computed: the next step overwrites them. A state that has
        seen some is the one before the draft again, and the next step computes the right ones once more.
        """
        drafted = {s.key: len(d) for s, d in zip(step.sampled, step.drafts, strict=True) if d}
        for sequence, part in zip(step.sequences, step.slices, strict=True):
            if not sequence.block_table:  # it has failed and was removed
                continue
            end = sequence.computed = part.start + len(part.token_ids)
            sequence.replays = False
            if sequence.key in drafted:
                known = max(len(sequence.token_ids) - 1, end - drafted[sequence.key])
                sequence.replays = self._reuse.settle(sequence, right=known >= end)
                sequence.computed = part.start if sequence.replays else min(end, known)
            self._reuse.note(sequence)

    def _allocate_next(self, step: Step) -> None:
        """Allocate the block for the next token of each sequence whose blocks are full."""
        needed = {s.key: len(s.token_ids) if s.replays else s.computed + 1 for s in self.running}
        growing = [s for s in self.running if self.tables.lacks(s, needed[s.key])]
        for sequence in sorted(growing, key=_rank):
            while sequence.block_table and not self.tables.extend(sequence, needed[sequence.key]):
                step.preempted.append(self.preempt_last())

    def _fit_draft(self, sequence: Sequence, draft: list[int]) -> tuple[int, ...]:
        """Cut a draft to the room in a sequence's blocks; it gets one more if there are plenty."""
        known = len(sequence.token_ids)
        drafted = draft[: self.tables.room(sequence, spare=self.slots) - known]
        starting = min(len(self.waiting), self.limit - len(self.running))
        if not drafted or not self._reuse.save(sequence, spare=starting):
            return ()
        self.tables.extend(sequence, known + len(drafted))
        return tuple(drafted)

    def _add_chunk(self, step: Step, sequence: Sequence, prefill_tokens: int) -> None:
        if self._reuse.load(sequence):
            return
        start = sequence.computed
        tokens = min(
            sequence.remaining,
            prefill_tokens - step.prefill_tokens,
            self.tables.room(sequence) - start,
        )
        if tokens > 0:
            tokens = self._reuse.cut(sequence, tokens)
            images = sequence.request.images
            if images is not None:
                tokens = images.chunk_end(start, start + tokens) - start
        if tokens > 0 and self.tables.extend(sequence, start + tokens):
            step.add(sequence, tokens, self.pool.block_size)
            step.prefill_tokens += tokens

    def _admit(self) -> bool:
        """Run the first waiting sequence if a slot and enough blocks are free.

        A sequence is passed over while another one computes its prefix, so that several answers
        to one prompt compute it once.
        """
        if len(self.running) >= self.limit:
            return False
        for sequence in self.waiting:
            cached, taken = self._reuse.match(sequence)
            if not self._reuse.awaits(sequence, taken, self.running):
                break
        else:
            return False
        if not self.tables.admit(sequence, taken, alone=not self.running):
            return False
        self.waiting.remove(sequence)
        sequence.registered_blocks = taken
        sequence.computed = taken * self.pool.block_size
        self._reuse.begin(sequence, cached, taken)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_length)
        self.running.append(sequence)
        return True
