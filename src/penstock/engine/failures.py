"""What happens after a step that failed: the batch shrinks, one sequence is blamed, or all ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from penstock.engine.execution import StepFailed
from penstock.engine.step import Step
from penstock.errors import EngineFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.engine.execution import Computed, PlainExecutor
    from penstock.engine.pacing.prefill_budget import PrefillBudget
    from penstock.engine.scheduler import Scheduler
    from penstock.engine.sequence import Sequence

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE: Final = 3
"""Failing steps in a row after which the engine stops: the model or its device is broken."""

_RECOVERY_STEPS: Final = 256
"""Good steps after which an engine that ran out of memory tries larger ones again."""

_OUT_OF_MEMORY: Final = ("can't allocate memory", "bad_alloc")
"""Parts of the plain RuntimeErrors of torch's CPU allocator and of OpenVINO."""
_LOST: Final = ("CUDA error", "cuBLAS", "CUDNN_STATUS", "UR error", "UR backend failed", "PI_ERROR")
"""Parts of torch's plain RuntimeErrors of CUDA and of Intel's runtime (UR, once PI)."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What becomes of a failed step's sequences; those in none of the lists stay as they are.

    `computed` are steps that succeeded for single sequences, `failed` the sequences to blame, each
    with its error. `preempted` lost their blocks.
    """

    computed: list[Computed] = field(default_factory=list["Computed"])
    failed: list[tuple[Sequence, EngineFailed]] = field(
        default_factory=list[tuple["Sequence", EngineFailed]]
    )
    preempted: list[Sequence] = field(default_factory=list["Sequence"])


class Failures:
    """Handles failed steps and counts them. The engine's thread owns it."""

    def __init__(
        self, executor: PlainExecutor, scheduler: Scheduler, budget: PrefillBudget
    ) -> None:
        self._executor = executor
        self._scheduler = scheduler
        self._budget = budget
        self._consecutive = 0
        self._good_steps = 0

    def step_succeeded(self) -> None:
        """Count a good step; after enough of them, allow larger batches again."""
        self._consecutive = 0
        self._good_steps += 1
        if self._good_steps % _RECOVERY_STEPS == 0:
            self._budget.recover()
            scheduler = self._scheduler
            scheduler.limit = min(scheduler.slots, scheduler.limit + 1)

    def recover(self, step: Step, error: Exception, *, repeatable: bool) -> Recovery:
        """Decide how to go on after a failed step: with less if memory ran out, else without it.

        :raises EngineFailed: nothing can be computed here; the sequences may go on elsewhere.
        """
        if isinstance(error, EngineFailed):
            raise error
        self._good_steps = 0
        running = len(self._scheduler.running)
        starved = is_out_of_memory(error)
        if starved and (running > 1 or not self._budget.exhausted):
            return self._shrink(running, step)
        if starved or is_device_lost(error):
            raise _engine_failed(error) from error
        logger.error("a step of %d sequences failed", len(step.sequences), exc_info=error)
        if self._scheduler.stateful and len(step.sequences) > 1:
            return self._restart(step, limit=1)  # the one to blame will fail alone
        if repeatable and len(step.sequences) > 1:
            return self._repeat_each(step)
        self._consecutive += 1
        if self._consecutive >= MAX_CONSECUTIVE:
            raise EngineFailed(f"{self._consecutive} steps in a row have failed") from error
        failure = _engine_failed(error)
        return Recovery(failed=[(sequence, failure) for sequence in step.sequences])

    def _shrink(self, running: int, step: Step) -> Recovery:
        """Halve the prefill chunk and run one sequence fewer."""
        logger.warning("out of memory with %d sequences: continuing with less", running)
        self._budget.shrink()
        if self._scheduler.stateful:
            return self._restart(step, limit=max(1, running - 1))
        if running <= 1:
            return Recovery()
        preempted = self._scheduler.preempt_last()
        self._scheduler.limit = running - 1
        return Recovery(preempted=[preempted])

    def _restart(self, step: Step, *, limit: int) -> Recovery:
        """Compute a step's sequences from their start: it may have changed their states already."""
        self._scheduler.limit = limit
        return Recovery(
            preempted=[self._scheduler.preempt(sequence) for sequence in step.sequences]
        )

    def _repeat_each(self, step: Step) -> Recovery:
        """Repeat a step that failed for each sequence alone: only those that fail again are blamed.

        :raises EngineFailed: all of them failed, so none of them is to blame.
        """
        recovery = Recovery()
        errors: list[Exception] = []
        for alone in _one_by_one(step, self._scheduler.pool.block_size):
            try:
                computed = self._executor.run(alone)
            except StepFailed as failure:
                error = failure.error
                if isinstance(error, EngineFailed):
                    raise error from None
                if is_out_of_memory(error) or is_device_lost(error):
                    raise _engine_failed(error) from error
                errors.append(error)
                recovery.failed.append((alone.sequences[0], _engine_failed(error)))
            else:
                if computed is not None:
                    recovery.computed.append(computed)
        if not recovery.computed:
            raise EngineFailed("a step failed, and each of its sequences alone") from errors[0]
        self._consecutive = 0
        return recovery


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a smaller step may succeed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Return whether the process can compute nothing more on its device, for any sequence."""
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)


def _one_by_one(step: Step, block_size: int) -> Iterator[Step]:
    """Yield a step for each sequence of one that has failed, which has changed none of them."""
    for sequence, part in zip(step.sequences, step.slices, strict=True):
        alone = Step()
        known = len(sequence.token_ids) - part.start  # without the draft
        alone.add(sequence, min(len(part.token_ids), known), block_size)
        yield alone


def _engine_failed(error: Exception) -> EngineFailed:
    return EngineFailed(f"{type(error).__name__}: {error}")
