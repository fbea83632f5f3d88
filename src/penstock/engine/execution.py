"""How a step is computed: plainly here, one step ahead of the host in `lookahead`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Protocol

import torch

from penstock.engine.prompt_readout import forward
from penstock.engine.sampling.sampler import Chosen

if TYPE_CHECKING:
    from penstock.engine.model import Model
    from penstock.engine.sampling.sampler import Sampler
    from penstock.engine.step import Step


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed step: `chosen` has its sampled rows' tokens, `step_s` the seconds it took."""

    step: Step
    chosen: Chosen
    step_s: float

    def only(self, present: list[bool]) -> Computed:
        """Return the part of a step of single tokens whose sequences are marked `present`."""
        token_ids = list(compress(self.chosen.token_ids, present))
        return Computed(self.step.only(present), Chosen(token_ids, {}), self.step_s)


class StepFailed(Exception):
    """A step raised `error`. If `repeatable`, none of its sequences has changed."""

    def __init__(self, step: Step, error: Exception, *, repeatable: bool = True) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.step = step
        self.error = error
        self.repeatable = repeatable


class Executor(Protocol):
    """Runs steps on the model. The engine's thread owns it."""

    @property
    def under_way(self) -> Step | None:
        """The step that has begun and whose tokens are still unknown."""
        ...

    def run(self, step: Step) -> Computed | None:
        """Compute a step, or begin it and return the one that was under way; None if none ended.

        :raises StepFailed: whatever the model or the sampler raised.
        """
        ...


class PlainExecutor:
    """Computes each step to its end before it returns."""

    under_way: Step | None = None

    def __init__(self, model: Model, sampler: Sampler) -> None:
        self._model = model
        self._sampler = sampler

    def run(self, step: Step) -> Computed | None:
        """See `Executor`."""
        if not step.slices:
            return None
        started_s = time.perf_counter()
        try:
            with torch.inference_mode():
                logits = forward(self._model, step, self._sampler)
                chosen = self._sampler.sample(logits, step.choices())
        except Exception as error:
            raise StepFailed(step, error) from error
        return Computed(step, chosen, time.perf_counter() - started_s)
