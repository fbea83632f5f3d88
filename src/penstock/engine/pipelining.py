"""The next step is on the device while the host tells of the one before.

A model that chooses tokens on its device (`PipelinedModel`) can begin a step before the host knows
the tokens of the last one. So while the host detokenises and writes events, the device works. What
a step computed for a sequence that turns out to have ended is thrown away.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from penstock.engine.model import Batch, SequenceSlice
from penstock.engine.sampling.counter_random import uniform
from penstock.engine.scheduler import Step

if TYPE_CHECKING:
    import collections.abc

    from penstock.engine.sampling.sampler import Choice
    from penstock.engine.scheduler import Scheduler
    from penstock.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row's token is chosen: greedily where `warmth` is 0, else by its uniform number.

    The filters are those of `Sampling`, with the values that switch them off.
    """

    warmth: float
    number: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Flight(Protocol):
    """A step that the device has been given."""

    def token_ids(self) -> list[int]:
        """Wait for the tokens, one a slice; -1 where no logit was a number."""
        ...


@runtime_checkable
class PipelinedModel(Protocol):
    """A model that chooses tokens itself and can begin a step before the last one is read."""

    def launch(
        self,
        batch: Batch,
        draws: collections.abc.Sequence[Draw],
        sources: collections.abc.Sequence[int],
    ) -> Flight:
        """Begin a step of one token a slice.

        A slice's token is that which the step launched before chose for its row `sources[i]`, or,
        where that is -1, the slice's own.
        """
        ...


@dataclass(slots=True)
class _Airborne:
    step: Step
    flight: Flight
    launched_s: float


class Lookahead:
    """Steps under way. The engine's thread owns it."""

    def __init__(self, model: PipelinedModel, scheduler: Scheduler) -> None:
        self._model = model
        self._scheduler = scheduler
        self._airborne: _Airborne | None = None
        self._read_s = 0.0

    @property
    def under_way(self) -> bool:
        """Whether a step has been launched and not read."""
        return self._airborne is not None

    @property
    def step(self) -> Step:
        """The step that has been launched and not read."""
        assert self._airborne is not None  # noqa: S101 - the engine has looked
        return self._airborne.step

    def begin(self, step: Step) -> bool:
        """Launch a step if it is one of plain decoding; return whether it was."""
        if len(step.sampled) != len(step.slices) or not all(
            len(part.token_ids) == 1 and _plain(sequence.choice)
            for sequence, part in zip(step.sequences, step.slices, strict=True)
        ):
            return False
        self._launch(step, [-1] * len(step.slices), behind=0)
        return True

    def turn(self, *, may_follow: bool) -> tuple[Step, list[int], float]:
        """Launch the step after the one under way, if there is one; then read that.

        Returns it, its tokens, and the seconds that it took. Sequences that are no longer here are
        still in it.
        """
        airborne = self._airborne
        assert airborne is not None  # noqa: S101 - the engine has looked
        self._airborne = None
        if may_follow:
            self._follow(airborne.step)
        token_ids = airborne.flight.token_ids()
        now_s = time.perf_counter()
        step_s = now_s - max(airborne.launched_s, self._read_s)
        self._read_s = now_s
        return airborne.step, token_ids, step_s

    def forget(self) -> None:
        """Leave what is under way unread: the step has failed."""
        self._airborne = None

    def _launch(self, step: Step, sources: list[int], *, behind: int) -> None:
        """`behind` tokens of each sequence are not known yet."""
        draws = [_draw(sequence.choice, behind) for sequence in step.sequences]
        flight = self._model.launch(Batch(step.slices), draws, sources)
        self._airborne = _Airborne(step, flight, time.perf_counter())

    def _follow(self, last: Step) -> None:
        """Launch the step after `last`, whose tokens are not known, where it cannot be another."""
        scheduler = self._scheduler
        if scheduler.waiting and len(scheduler.running) < scheduler.limit:
            return  # one that waits may come in: let the scheduler look
        row_of = {id(sequence): row for row, sequence in enumerate(last.sampled)}
        if any(id(sequence) not in row_of for sequence in scheduler.running):
            return
        going_on = [s for s in scheduler.running if len(s.token_ids) + 1 < s.max_length]
        size = scheduler.pool.block_size
        needy = [s for s in going_on if len(s.block_table) * size <= len(s.token_ids)]
        if not going_on or len(needy) > scheduler.pool.available:
            return
        for sequence in needy:
            sequence.block_table += scheduler.pool.allocate(1)
        count = len(going_on)
        step = Step(sequences=going_on, sampled=going_on, drafts=[()] * count, decode_tokens=count)
        step.slices = [_next_of(sequence, size) for sequence in going_on]
        self._launch(step, [row_of[id(sequence)] for sequence in going_on], behind=1)


def _next_of(sequence: Sequence, block_size: int) -> SequenceSlice:
    """The token after the one that is being chosen."""
    start = len(sequence.token_ids)
    table = sequence.block_table[: start // block_size + 1]
    return SequenceSlice(sequence.key, (0,), start, table, 0)


def _plain(choice: Choice) -> bool:
    """Whether a token can be chosen knowing nothing but the logits and the draw."""
    sampling = choice.sampling
    return choice.edits is None and choice.constraint is None and sampling.logprobs is None


def _draw(choice: Choice, behind: int) -> Draw:
    if choice.greedy:
        return Draw(0.0, 0.0)
    sampling = choice.sampling
    return Draw(
        sampling.temperature,
        uniform(sampling.seed, choice.position + behind),
        max(0, sampling.top_k),
        sampling.top_p,
        sampling.min_p,
    )
