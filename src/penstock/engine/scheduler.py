"""Which sequences a step computes: decoding first, then prompts in chunks."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import compress
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from penstock.engine.kv_cache import extend_digests
from penstock.engine.model import SequenceSlice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.engine.kv_cache import BlockPool
    from penstock.engine.sampling.sampler import Choice
    from penstock.engine.sequence import Sequence

_order: Final = attrgetter("order")


@dataclass(slots=True)
class Step:
    """One step's work.

    `slices` belong to `sequences`, one each, in order. `sampled` are those of them that get
    tokens: one, and one more for each token of its draft (`drafts`, in the same order) that turns
    out right. Their logits' rows come in this order, at `rows`: a row for the next token and one
    after each of the draft. `scored` are those whose prompt's tokens get scores, each with its first row and the position that this row is of; `pooled` likewise those
    that are embedded. `preempted` lost their blocks just before.
    """

    sequences: list[Sequence] = field(default_factory=list["Sequence"])
    slices: list[SequenceSlice] = field(default_factory=list[SequenceSlice])
    sampled: list[Sequence] = field(default_factory=list["Sequence"])
    drafts: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    rows: list[int] = field(default_factory=list[int])
    scored: list[tuple[Sequence, int, int]] = field(
        default_factory=list[tuple["Sequence", int, int]]
    )
    pooled: list[tuple[Sequence, int, int]] = field(
        default_factory=list[tuple["Sequence", int, int]]
    )
    row_count: int = 0
    preempted: list[Sequence] = field(default_factory=list["Sequence"])
    decode_tokens: int = 0
    prefill_tokens: int = 0

    @property
    def drafted_tokens(self) -> int:
        """How many of the decode slices' tokens are only guessed."""
        return sum(map(len, self.drafts))

    def choices(self) -> list[Choice]:
        """What the sampler is asked, a choice a row."""
        return [
            choice
            for sequence, draft in zip(self.sampled, self.drafts, strict=True)
            for choice in (sequence.choice.along(draft) if draft else (sequence.choice,))
        ]

    def of(self, here: list[bool]) -> Step:
        """Return the part of a step of single tokens that belongs to the sequences marked `here`."""
        if all(here):
            return self
        kept = list(compress(self.sequences, here))
        return Step(
            sequences=kept,
            slices=list(compress(self.slices, here)),
            sampled=kept,
            drafts=[()] * len(kept),
            decode_tokens=self.decode_tokens,
        )

    def add(
        self, sequence: Sequence, tokens: int, block_size: int, draft: tuple[int, ...] = ()
    ) -> None:
        """Let the step compute the next `tokens` tokens of a sequence, and what may follow them."""
        start = sequence.computed
        end = start + tokens
        last = end == len(sequence.token_ids)
        logits_from = tokens - 1 if last else tokens
        if sequence.unread:
            logits_from = self._read(sequence, start, end, logits_from)
        count = tokens + len(draft)
        self.row_count += count - logits_from
        self.sequences.append(sequence)
        self.slices.append(
            SequenceSlice(
                key=sequence.key,
                token_ids=[*sequence.token_ids[start:end], *draft],
                start=start,
                block_table=sequence.block_table[: -(-(start + count) // block_size)],
                logits_from=logits_from,
            )
        )
        if last:
            self.sampled.append(sequence)
            self.drafts.append(draft)
            self.rows.extend(range(self.row_count - 1 - len(draft), self.row_count))

    def _read(self, sequence: Sequence, start: int, end: int, logits_from: int) -> int:
        """Note which rows tell of the prompt itself; returns the first that is wanted."""
        if sequence.pooled is not None:
            first = max(start, sequence.pooled.count)
            if first < min(end, sequence.prompt_length):
                self.pooled.append((sequence, self.row_count, first))
                return first - start
        if sequence.scores is not None:
            first = max(start, len(sequence.scores))
            if first < min(end, sequence.prompt_length - 1):
                self.scored.append((sequence, self.row_count, first))
                return first - start
        return logits_from


class Scheduler:
    """Waiting and running sequences, and the blocks they hold. The engine's thread owns it.

    Sequences are served in their `order`. A running one that needs a block when none is free takes
    those of the last in that order (recompute preemption), so the first one always goes on and, as
    each fits into the cache alone, every one ends.
    """

    def __init__(self, pool: BlockPool, slots: int) -> None:
        self.pool = pool
        self.slots = slots
        self.limit = slots
        """Sequences that run at once; less than `slots` after the device ran out of memory."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        insort(self.waiting, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.pool.release(sequence.block_table)
        sequence.rewind()

    def preempt_last(self) -> Sequence:
        """Send the last running sequence back to wait; its blocks are freed, its tokens stay."""
        sequence = max(self.running, key=_order)
        self.remove(sequence)
        self.add(sequence)
        return sequence

    def decoding(self) -> list[Sequence]:
        """The running sequences whose prompt is done, so that their streams wait for the step."""
        return [sequence for sequence in self.running if sequence.remaining == 1]

    def schedule(
        self, prefill_tokens: int, drafts: Mapping[int, list[int]] = MappingProxyType({})
    ) -> Step:
        """Choose the next step's work, with at most so many prompt tokens; take its blocks.

        `drafts` are guessed tokens by sequence key; they are cut where the cache has no room.
        """
        step = Step()
        self._make_room(step)
        size = self.pool.block_size
        prefilling: list[Sequence] = []
        for sequence in self.running:
            if sequence.remaining == 1:
                draft = drafts.get(sequence.key)
                step.add(sequence, 1, size, self._housed(sequence, draft) if draft else ())
            else:
                prefilling.append(sequence)
        step.decode_tokens = len(step.slices) + step.drafted_tokens
        for sequence in prefilling:
            self._add_chunk(step, sequence, prefill_tokens)
        while step.prefill_tokens < prefill_tokens and self.waiting and self._admit():
            self._add_chunk(step, self.running[-1], prefill_tokens)
        return step

    def advance(self, step: Step) -> None:
        """Take note that a step has been computed; its sequences have their new tokens already.

        What was computed of a draft that turned out wrong is computed anew, in its place.
        """
        drafted = {s.key: len(d) for s, d in zip(step.sampled, step.drafts, strict=True) if d}
        for sequence, part in zip(step.sequences, step.slices, strict=True):
            if not sequence.block_table:  # it has failed, and is gone
                continue
            sequence.computed = part.start + len(part.token_ids)
            if sequence.key in drafted:
                known = max(len(sequence.token_ids) - 1, sequence.computed - drafted[sequence.key])
                sequence.computed = min(sequence.computed, known)
            full = sequence.computed // self.pool.block_size
            if full > sequence.registered and self.pool.caching:
                extend_digests(sequence.digests, sequence.token_ids, self.pool.block_size)
                for index in range(sequence.registered, full):
                    self.pool.register(sequence.block_table[index], sequence.digests[index])
                sequence.registered = full

    def _make_room(self, step: Step) -> None:
        """Give every decoding sequence the block that its next token needs."""
        size = self.pool.block_size
        needy = [s for s in self.running if len(s.block_table) * size < len(s.token_ids)]
        for sequence in sorted(needy, key=_order):
            while not self.pool.available and sequence.block_table:
                step.preempted.append(self.preempt_last())
            if sequence.block_table:  # it was not the last itself
                sequence.block_table += self.pool.allocate(1)

    def _housed(self, sequence: Sequence, draft: list[int]) -> tuple[int, ...]:
        """Return what of a draft fits into a sequence's blocks, with one more if it is to spare."""
        size = self.pool.block_size
        room = len(sequence.block_table) * size - len(sequence.token_ids)
        if room < len(draft) and self.pool.available > self.slots:
            sequence.block_table += self.pool.allocate(1)
            room += size
        return tuple(draft[:room])

    def _add_chunk(self, step: Step, sequence: Sequence, prefill_tokens: int) -> None:
        tokens = min(sequence.remaining, prefill_tokens - step.prefill_tokens)
        if tokens > 0:
            step.add(sequence, tokens, self.pool.block_size)
            step.prefill_tokens += tokens

    def _admit(self) -> bool:
        """Let the first waiting sequence run, if a slot and the blocks of its tokens are free.

        One whose beginning another is computing just now is passed over until it is there: so
        several answers to one prompt compute it once.
        """
        if len(self.running) >= self.limit:
            return False
        for sequence in self.waiting:
            matched = self._match(sequence)
            if not self._is_being_computed(sequence, len(matched)):
                break
        else:
            return False
        needed = self.pool.blocks_for(len(sequence.token_ids)) - len(matched)
        # Some blocks are left to those that run, so that a newcomer does not push one out at once.
        spare = self.pool.num_blocks // 100 if self.running else 0
        if needed + spare > self.pool.available - self.pool.idle(matched):
            return False
        self.waiting.remove(sequence)
        self.pool.acquire(matched)
        sequence.block_table = matched + self.pool.allocate(needed)
        sequence.registered = len(matched)
        sequence.computed = len(matched) * self.pool.block_size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_length)
        self.running.append(sequence)
        return True

    def _is_being_computed(self, sequence: Sequence, block: int) -> bool:
        """Whether a running sequence is about to fill that block of a waiting one's prompt."""
        if sequence.unread or block >= (len(sequence.token_ids) - 1) // self.pool.block_size:
            return False
        return any(
            other.registered <= block < len(other.digests)
            and other.digests[block] == sequence.digests[block]
            for other in self.running
        )

    def _match(self, sequence: Sequence) -> list[int]:
        """Return cached blocks of a sequence's beginning; one token at least is left to compute."""
        if not self.pool.caching or sequence.unread:  # what is cached tells nothing
            return []
        size = self.pool.block_size
        extend_digests(sequence.digests, sequence.token_ids, size)
        return self.pool.match(sequence.digests[: (len(sequence.token_ids) - 1) // size])
