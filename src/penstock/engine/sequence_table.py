"""The engine's sequences by attempt: what becomes of a request from its arrival to its last event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.events import AttemptEvent, failed, finished
from penstock.engine.model import shows_hidden
from penstock.engine.sequence import Sequence
from penstock.errors import PenstockError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.drafting.speculation import Drafter
    from penstock.engine.execution import Computed
    from penstock.engine.model import Model
    from penstock.engine.pacing.meter import Meter
    from penstock.engine.sampling.sampler import Sampler
    from penstock.engine.scheduler import Scheduler
    from penstock.engine.sequence import Limits, SequenceRequest
    from penstock.engine.step import Step
    from penstock.engine.text.detokenizer import DecodeCache


class SequenceTable:
    """Adds sequences to the scheduler and removes them everywhere. The engine's thread owns it."""

    def __init__(
        self,
        model: Model,
        scheduler: Scheduler,
        sampler: Sampler,
        drafter: Drafter,
        meter: Meter,
        *,
        limits: Limits,
        decode_cache: DecodeCache,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._sampler = sampler
        self._drafter = drafter
        self._meter = meter
        self._limits = limits
        self._decode_cache = decode_cache
        self._sequences: dict[str, Sequence] = {}
        self._accepted = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def accept(self, request: SequenceRequest) -> list[AttemptEvent]:
        """Let a request wait for its turn; return its last event if it ends at once."""
        self.drop(request.attempt_id)
        self._accepted += 1
        try:
            sequence = Sequence(request, self._accepted, self._limits, self._decode_cache)
            if request.embeds and not shows_hidden(self._model):
                raise UnsupportedFeature("this model gives no embeddings", param="model")
        except PenstockError as error:
            return [failed(request, error, index=len(request.generated_token_ids))]
        self._meter.accepted(sequence.prompt_length)
        if sequence.finish_reason is not None and not sequence.needs_prompt_rows:
            return [self.finish(sequence)]
        self._sequences[request.attempt_id] = sequence
        self._scheduler.add(sequence)
        return []

    def finish(self, sequence: Sequence) -> AttemptEvent:
        """Remove a sequence that has a finish reason."""
        self._drafter.keep(sequence)
        self.drop(sequence.request.attempt_id)
        self._meter.finished(sequence.usage.cached_tokens)
        return finished(sequence, self._sampler)

    def fail(self, sequence: Sequence, error: PenstockError) -> AttemptEvent:
        """Remove a sequence that cannot be computed."""
        self.drop(sequence.request.attempt_id)
        return failed(sequence.request, error, index=sequence.generated)

    def drop(self, attempt_id: str) -> None:
        """Remove a sequence without an event, if it is here."""
        sequence = self._sequences.pop(attempt_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._drafter.forget(sequence.key)
            self._model.release(sequence.key)

    def release(self, preempted: Iterable[Sequence]) -> None:
        """Let the model forget preempted sequences; they wait for their turn again."""
        for sequence in preempted:
            self._model.release(sequence.key)
            self._meter.preempted(1)

    def present(self, step: Step) -> list[bool]:
        """Return which of a step's sequences have neither ended nor been aborted since it began."""
        get = self._sequences.get
        return [get(sequence.request.attempt_id) is sequence for sequence in step.sequences]

    def only_present(self, computed: Computed) -> Computed:
        """Leave out the sequences of a step that are not `present`."""
        present = self.present(computed.step)
        return computed if all(present) else computed.only(present)
