"""The device computes the next step while the host handles the tokens of the one before.

A model that chooses tokens on its device (`PipelinedModel`) can begin a step before the host knows
the tokens of the last one. So the device works while the host detokenises and writes events. What
a step computed for a sequence that has ended meanwhile is discarded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from penstock.engine.execution import Computed, StepFailed
from penstock.engine.model import Batch
from penstock.engine.sampling.counter_random import uniform
from penstock.engine.sampling.sampler import Chosen

if TYPE_CHECKING:
    import collections.abc

    from penstock.engine.execution import PlainExecutor
    from penstock.engine.sampling.sampler import Choice
    from penstock.engine.step import Step


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row's token is chosen: greedily if `warmth` is 0, else by its uniform number.

    The filters are those of `Sampling`; their defaults switch them off.
    """

    warmth: float
    number: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Flight(Protocol):
    """A step that has been launched on the device."""

    def token_ids(self) -> list[int]:
        """Wait for the tokens, one a slice; -1 if no logit of its row was a number."""
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

        Slice `i` takes the token that the step launched before chose for its row `sources[i]`, or
        its own token if that is -1.
        """
        ...


@dataclass(slots=True)
class _Airborne:
    step: Step
    flight: Flight
    launched_s: float


class PipelinedExecutor:
    """Begins a step of plain decoding and returns the tokens of the one before it.

    Any other step is computed by `plain`, once no step is under way.
    """

    def __init__(self, model: PipelinedModel, plain: PlainExecutor) -> None:
        self._model = model
        self._plain = plain
        self._airborne: _Airborne | None = None
        self._read_s = 0.0

    @property
    def under_way(self) -> Step | None:
        """See `Executor`."""
        return None if self._airborne is None else self._airborne.step

    def run(self, step: Step) -> Computed | None:
        """See `Executor`. What follows a step under way must be plain decoding, or empty."""
        if self._airborne is not None:
            return self._land(self._airborne, step)
        if not _is_plain_decoding(step):
            return self._plain.run(step)
        try:
            self._launch(step, [-1] * len(step.slices), behind=0)
        except Exception as error:
            raise StepFailed(step, error) from error
        return None

    def _land(self, airborne: _Airborne, following: Step) -> Computed:
        """Launch the following step if there is one, then read the one under way."""
        self._airborne = None
        try:
            if following.slices:
                row_of = {id(s): row for row, s in enumerate(airborne.step.sampled)}
                sources = [row_of[id(sequence)] for sequence in following.sequences]
                self._launch(following, sources, behind=1)
            token_ids = airborne.flight.token_ids()
        except Exception as error:
            self._airborne = None
            raise StepFailed(airborne.step, error, repeatable=False) from error
        now_s = time.perf_counter()
        step_s = now_s - max(airborne.launched_s, self._read_s)
        self._read_s = now_s
        chosen = Chosen([token if token >= 0 else None for token in token_ids], {})
        return Computed(airborne.step, chosen, step_s)

    def _launch(self, step: Step, sources: list[int], *, behind: int) -> None:
        """Begin a step; `behind` tokens of each sequence are still unknown."""
        draws = [_draw(sequence.choice, behind) for sequence in step.sequences]
        flight = self._model.launch(Batch(step.slices), draws, sources)
        self._airborne = _Airborne(step, flight, time.perf_counter())


def _is_plain_decoding(step: Step) -> bool:
    """Whether a step has one token a sequence, each chosen from its logits and draw alone."""
    return (
        bool(step.slices)
        and len(step.sampled) == len(step.slices)
        and all(
            len(part.token_ids) == 1 and _is_plain(sequence.choice)
            for sequence, part in zip(step.sequences, step.slices, strict=True)
        )
    )


def _is_plain(choice: Choice) -> bool:
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
