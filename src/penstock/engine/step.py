"""One step's work: its slices of sequences, and which rows of the result are for what."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

from penstock.engine.model import SequenceSlice

if TYPE_CHECKING:
    from penstock.engine.sampling.sampler import Choice
    from penstock.engine.sequence import Sequence


@dataclass(slots=True)
class Step:
    """One step's work.

    `slices` belong to `sequences`, one each, in order. `sampled` are those of them that get
    tokens: one, and one more for each right token of its draft (`drafts`, in the same order).
    `rows` are the indices of their logits, in this order: one for the next token and one for each
    token of the draft. `scored` are the sequences whose prompt's tokens get scores, each with its
    first row and the position of that row; `pooled` likewise those that are embedded. `preempted`
    lost their blocks just before this step.
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
        """How many of the decode slices' tokens are drafts."""
        return sum(map(len, self.drafts))

    def choices(self) -> list[Choice]:
        """Return the sampler's input, a choice a row."""
        return [
            choice
            for sequence, draft in zip(self.sampled, self.drafts, strict=True)
            for choice in (sequence.choice.along(draft) if draft else (sequence.choice,))
        ]

    def only(self, present: list[bool]) -> Step:
        """Return the part of a step of single tokens whose sequences are marked `present`."""
        sequences = list(compress(self.sequences, present))
        return Step(
            sequences=sequences,
            slices=list(compress(self.slices, present)),
            sampled=sequences,
            drafts=[()] * len(sequences),
            decode_tokens=self.decode_tokens,
        )

    def add(
        self, sequence: Sequence, tokens: int, block_size: int, draft: tuple[int, ...] = ()
    ) -> None:
        """Add the next `tokens` tokens of a sequence, and a draft of those after them."""
        start = sequence.computed
        end = start + tokens
        last = end == len(sequence.token_ids)
        logits_from = tokens - 1 if last else tokens
        if sequence.needs_prompt_rows:
            logits_from = self._add_prompt_rows(sequence, start, end, logits_from)
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
                state=sequence.state,
                images=sequence.request.images,
                adapter=sequence.adapter_weights,
                window_table=sequence.window_table[: -(-(start + count) // block_size)],
            )
        )
        if last:
            self.sampled.append(sequence)
            self.drafts.append(draft)
            self.rows.extend(range(self.row_count - 1 - len(draft), self.row_count))

    def _add_prompt_rows(self, sequence: Sequence, start: int, end: int, logits_from: int) -> int:
        """Note the rows that score or embed the prompt; return the offset of the first one."""
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


def next_slice(sequence: Sequence, block_size: int) -> SequenceSlice:
    """Return the slice of the token that the step under way chooses; its id is a placeholder."""
    start = len(sequence.token_ids)
    count = start // block_size + 1
    return SequenceSlice(
        sequence.key,
        (0,),
        start,
        sequence.block_table[:count],
        logits_from=0,
        state=sequence.state,
        images=sequence.request.images,
        adapter=sequence.adapter_weights,
        window_table=sequence.window_table[:count],
    )
