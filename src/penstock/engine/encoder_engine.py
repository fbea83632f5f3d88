"""The engine of encoders: whole texts in padded batches, the oldest first."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from penstock.contract.events import Finished, FinishReason, Usage
from penstock.engine.encoder import Encoder, EncoderInput
from penstock.engine.events import AttemptEvent, failed
from penstock.engine.failures import MAX_CONSECUTIVE, is_device_lost, is_out_of_memory
from penstock.engine.pacing.meter import Meter
from penstock.engine.pooling import encoded
from penstock.engine.runner import Runner
from penstock.engine.sampling.tensor_lists import flags
from penstock.errors import (
    ContextOverflow,
    EngineFailed,
    InvalidParameter,
    PenstockError,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.contract.worker import WorkerLoad
    from penstock.engine.sequence import SequenceRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Abort:
    attempt_ids: frozenset[str]


class EncoderEngine:
    """Batches texts for one encoder; it has the interface of `Engine`.

    A batch is the oldest text and waiting ones of similar length, up to `batch_tokens` with their
    padding. Only the thread that `start` begins touches the model; `sink` is called in it, once
    for each batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        slots: int,
        batch_tokens: int,
        sink: Callable[[list[AttemptEvent]], None],
    ) -> None:
        self._encoder = encoder
        self._slots = slots
        self._batch_tokens = batch_tokens
        self._sink = sink
        self._meter = Meter()
        self._waiting: dict[str, SequenceRequest] = {}
        self._computing = 0
        self._failures = 0
        self._runner: Runner[SequenceRequest | _Abort] = Runner(self._turn, "penstock-encoder")

    def start(self) -> None:
        """Start the engine's thread."""
        self._runner.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the engine's thread after its batch; waiting texts get no event.

        :raises TimeoutError: the batch takes longer than `timeout_s`.
        """
        self._runner.stop(timeout_s)

    def turn(self) -> bool:
        """Take what was submitted and compute one batch, without the engine's thread.

        Returns whether any text is left.
        """
        return self._runner.turn()

    def submit(self, *requests: SequenceRequest) -> None:
        """Take requests together; an invalid one ends with a `Failed` event."""
        self._runner.post(*requests)

    def abort(self, attempt_ids: Iterable[str]) -> None:
        """Drop these attempts if they are here; no event is emitted."""
        self._runner.post(_Abort(frozenset(attempt_ids)))

    def load(self) -> WorkerLoad:
        """Return the engine's load."""
        waiting = len(self._waiting) + self._runner.posted
        return self._meter.read(running=self._computing, waiting=waiting, kv_use=0.0)

    def lost_heads(self) -> list[str]:
        """Return nothing: texts leave nothing in a cache."""
        return []

    def last_step_s(self) -> float:
        """Return the monotonic time at which the last batch, or idle tick, ended."""
        return self._runner.last_turn_s

    def usual_step_s(self) -> float | None:
        """Return None: a batch of texts may be of any length."""
        return None

    def busy(self) -> bool:
        """Return whether any text is here, is about to be, or has events to be delivered."""
        return bool(self._waiting) or self._runner.busy

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the engine's thread, if one did."""
        return self._runner.failure

    def _turn(self, commands: list[SequenceRequest | _Abort]) -> bool:
        events: list[AttemptEvent] = []
        for command in commands:
            if isinstance(command, _Abort):
                for attempt_id in command.attempt_ids:
                    self._waiting.pop(attempt_id, None)
            else:
                events += self._accept(command)
        if self._waiting:
            events += self._run(self._batch())
        if events:
            self._sink(events)
        return bool(self._waiting)

    def _accept(self, request: SequenceRequest) -> list[AttemptEvent]:
        try:
            self._check(request)
        except PenstockError as error:
            return [failed(request, error, index=0)]
        self._meter.accepted(len(request.prompt_token_ids))
        self._waiting[request.attempt_id] = request
        return []

    def _check(self, request: SequenceRequest) -> None:
        tokens, most = request.prompt_token_ids, self._encoder.context_length
        if not request.embeds:
            raise UnsupportedFeature("this model generates no text", param="model")
        if not tokens:
            raise InvalidParameter("the text has no tokens", param="prompt")
        if min(tokens) < 0 or max(tokens) >= self._encoder.vocab_size:
            raise InvalidParameter(
                f"a token id is outside the vocabulary of {self._encoder.vocab_size}",
                param="prompt",
            )
        if len(tokens) > most:
            raise ContextOverflow(
                f"the model reads {most} tokens; the text has {len(tokens)} "
                f"(truncate_prompt_tokens = -1 cuts it)",
                param="prompt",
            )

    def _batch(self) -> list[SequenceRequest]:
        """Return the next batch: the oldest text, and waiting ones nearest in length."""
        oldest_first = sorted(self._waiting.values(), key=lambda request: request.priority)
        window = oldest_first[: self._slots]
        length = len(window[0].prompt_token_ids)
        window[1:] = sorted(window[1:], key=lambda text: abs(len(text.prompt_token_ids) - length))
        longest, count = length, 1
        while count < len(window):
            longest = max(longest, len(window[count].prompt_token_ids))
            if longest * (count + 1) > self._batch_tokens:
                break
            count += 1
        return window[:count]

    def _run(self, batch: list[SequenceRequest]) -> list[AttemptEvent]:
        started_s = time.perf_counter()
        self._computing = len(batch)
        try:
            with torch.inference_mode():
                vectors = self._encoder.encode(
                    [EncoderInput(text.prompt_token_ids, text.token_types) for text in batch]
                )
            finite = flags(torch.isfinite(vectors).all(1))
        except Exception as error:  # noqa: BLE001 - any error of a backend is the batch's
            return self._recover(batch, error)
        finally:
            self._computing = 0
        self._failures = 0
        self._meter.step(
            prefilled=sum(len(text.prompt_token_ids) for text in batch),
            step_s=time.perf_counter() - started_s,
        )
        return [self._end(*row) for row in zip(batch, vectors, finite, strict=True)]

    def _end(self, request: SequenceRequest, vector: torch.Tensor, is_finite: bool) -> AttemptEvent:
        self._waiting.pop(request.attempt_id, None)
        if not is_finite:
            return failed(request, EngineFailed("the model's vector is not of numbers"), index=0)
        self._meter.finished(0)
        event = Finished(
            request.job_id,
            index=0,
            reason=FinishReason.STOP,
            usage=Usage(len(request.prompt_token_ids), 0),
            embedding=encoded(vector),
        )
        return AttemptEvent(request.attempt_id, event)

    def _recover(self, batch: list[SequenceRequest], error: Exception) -> list[AttemptEvent]:
        """Go on after a failed batch: with smaller ones if memory ran out, else without it.

        :raises EngineFailed: nothing can be computed here; other workers may compute the texts.
        """
        starved = is_out_of_memory(error)
        if starved and len(batch) > 1:
            self._batch_tokens = max(1, self._batch_tokens // 2)
            logger.warning("out of memory: batches of %d tokens from now on", self._batch_tokens)
            return []
        if starved or is_device_lost(error):
            raise EngineFailed(f"{type(error).__name__}: {error}") from error
        logger.error("a batch of %d texts failed", len(batch), exc_info=error)
        self._failures += 1
        if self._failures >= MAX_CONSECUTIVE:
            raise EngineFailed(f"{self._failures} batches in a row have failed") from error
        failure = EngineFailed(f"{type(error).__name__}: {error}")
        events: list[AttemptEvent] = []
        for request in batch:
            del self._waiting[request.attempt_id]
            events.append(failed(request, failure, index=0))
        return events
