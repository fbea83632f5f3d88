"""The engine: requests in, one `step()` after another, events out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from penstock.contract.events import Event, Failed, Finished, PositionLogprobs, Tokens
from penstock.engine.budget import PrefillBudget
from penstock.engine.detokenizer import DecodeCache, Tokenizer
from penstock.engine.kv_cache import BlockPool
from penstock.engine.meter import Meter
from penstock.engine.model import Batch, HiddenModel, Model, shows_hidden
from penstock.engine.runner import Runner
from penstock.engine.sampler import Chosen, Sampler
from penstock.engine.scheduler import Scheduler, Step
from penstock.engine.sequence import Limits, Sequence, SequenceRequest
from penstock.errors import EngineFailed, PenstockError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.contract.worker import WorkerLoad
    from penstock.engine.options import EngineOptions

logger = logging.getLogger(__name__)

_MOST_FAILURES: Final = 3
"""Failing steps in a row after which the engine stops: the model or its device is broken."""

_RECOVERY_STEPS: Final = 256
"""Good steps after which an engine that ran out of memory tries more again."""


@dataclass(frozen=True, slots=True)
class _Abort:
    job_ids: frozenset[str]


class Engine:
    """Continuous batching of one model.

    The thread that `start` begins alone touches the model, the scheduler and every sequence;
    `submit`, `abort` and the figures are for any thread. `sink` is called in the engine's thread,
    once a step that has events; while it blocks, the engine waits.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        options: EngineOptions,
        sink: Callable[[list[Event]], None],
    ) -> None:
        pool = BlockPool(
            options.num_blocks, model.kv_layout.block_size, caching=options.prefix_caching
        )
        self._model = model
        self._sink = sink
        self._limits = Limits(
            min(model.context_length, pool.num_blocks * pool.block_size),
            model.vocab_size,
            frozenset(i for i in tokenizer.eos_token_ids if 0 <= i < model.vocab_size),
        )
        self._decode_cache = DecodeCache(tokenizer)
        self._scheduler = Scheduler(pool, options.slots)
        self._budget = PrefillBudget(options)
        self._sampler = Sampler(tokenizer.token_text)
        self._meter = Meter()
        self._sequences: dict[str, Sequence] = {}
        self._accepted = 0
        self._failures = 0
        self._good_steps = 0
        self._runner: Runner[SequenceRequest | _Abort] = Runner(self._turn, "penstock-engine")

    def start(self) -> None:
        """Start the engine's thread."""
        self._runner.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the engine's thread after its step; what is unfinished gets no event.

        :raises TimeoutError: the step takes longer than `timeout_s`.
        """
        self._runner.stop(timeout_s)

    def submit(self, request: SequenceRequest) -> None:
        """Take a request; what is wrong with it comes as a `Failed` event.

        A request of a job that is here already takes its place.
        """
        self._runner.post(request)

    def abort(self, job_ids: Iterable[str]) -> None:
        """Give up these jobs, whether they are here or not; their slots are free at the next step.

        No event tells of it.
        """
        self._runner.post(_Abort(frozenset(job_ids)))

    def load(self) -> WorkerLoad:
        """Return the engine's load: what runs, what waits, and its rates."""
        scheduler = self._scheduler
        return self._meter.read(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + self._runner.posted,
            kv_use=scheduler.pool.use,
        )

    def last_step_s(self) -> float:
        """Return the monotonic time at which the last step, or idle tick, ended."""
        return self._runner.last_turn_s

    def busy(self) -> bool:
        """Return whether any sequence is here, on its way in, or has events on their way out."""
        return bool(self._sequences) or self._runner.busy

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine's thread, if it has ended by itself."""
        return self._runner.failure

    def step(self) -> list[Event]:
        """Schedule, run, sample, postprocess: a token more for every sequence that is ready."""
        scheduler = self._scheduler
        step = scheduler.schedule(self._budget.tokens(decoding=scheduler.decoding))
        self._release(step.preempted)
        if not step.slices:
            return []
        started_s = time.perf_counter()
        try:
            with torch.inference_mode():
                logits = self._forward(step)
                chosen = self._sampler.sample(logits, [s.choice for s in step.sampled])
        except Exception as error:  # noqa: BLE001 - any error of a backend is the step's
            return self._recover(step, error)
        scheduler.advance(step)
        self._observe(step, time.perf_counter() - started_s)
        return self._postprocess(step, chosen)

    def _turn(self, commands: list[SequenceRequest | _Abort]) -> bool:
        """Take what has come, make a step, tell the events; return whether there is more to do."""
        events: list[Event] = []
        for command in commands:
            if isinstance(command, _Abort):
                for job_id in command.job_ids:
                    self._drop(job_id)
            else:
                events += self._accept(command)
        events += self.step()
        if events:
            self._sink(events)
        return bool(self._sequences)

    def _accept(self, request: SequenceRequest) -> list[Event]:
        self._drop(request.job_id)
        self._accepted += 1
        try:
            sequence = Sequence(request, self._accepted, self._limits, self._decode_cache)
        except PenstockError as error:
            index = len(request.generated_token_ids)
            return [Failed(request.job_id, index, error.code, error.message, error.param or "")]
        if request.embeds and not shows_hidden(self._model):
            message = "this model gives no embeddings"
            return [Failed(request.job_id, 0, UnsupportedFeature.code, message, "model")]
        self._meter.accepted(sequence.prompt_length)
        if sequence.finish_reason is not None and not sequence.unread:
            return [self._finish(sequence)]
        self._sequences[request.job_id] = sequence
        self._scheduler.add(sequence)
        return []

    def _postprocess(self, step: Step, chosen: Chosen) -> list[Event]:
        """Give the sequences their tokens, and take out those that end."""
        events: list[Event] = []
        for row, (sequence, token_id) in enumerate(
            zip(step.sampled, chosen.token_ids, strict=True)
        ):
            if token_id is None:
                why = sequence.choice.failure or "the model's logits are not numbers"
                events.append(self._fail(sequence, why))
                continue
            if sequence.finish_reason is None:  # else nothing but the scores was asked for
                logprobs = chosen.logprobs.get(row)
                told = () if logprobs is None else (*self._scores(sequence), logprobs)
                events.append(_tell(sequence, token_id, told))
            if sequence.finish_reason is not None:
                self._drop(sequence.request.job_id)
                events.append(self._finish(sequence))
        return events

    def _finish(self, sequence: Sequence) -> Finished:
        assert sequence.finish_reason is not None  # noqa: S101 - the callers have looked
        self._meter.finished()
        text = sequence.answer.finish()
        return Finished(
            sequence.request.job_id,
            index=sequence.generated,
            reason=sequence.finish_reason,
            usage=sequence.usage,
            text=text if sequence.generated else sequence.request.echo_text + text,
            stop=sequence.stop,
            logprobs=self._scores(sequence),
            embedding="" if sequence.pooled is None else sequence.pooled.embedding(),
        )

    def _forward(self, step: Step) -> torch.Tensor:
        """Run the model and read what the step wants of prompts; return the sampled rows' logits."""
        batch = Batch(step.slices)
        if step.pooled and isinstance(self._model, HiddenModel):
            logits, hidden = self._model.forward_hidden(batch)
            for sequence, row, position in step.pooled:
                count = self._end_of_prompt(step, sequence, sequence.prompt_length) - position
                if sequence.pooled is not None:
                    sequence.pooled.add(hidden[row : row + count])
        else:
            logits = self._model.forward(batch)
        self._score(step, logits)
        return logits[step.rows] if step.scored or step.pooled else logits

    @staticmethod
    def _end_of_prompt(step: Step, sequence: Sequence, length: int) -> int:
        """Return where the part of a prompt ends that this step computes; it has `length` tokens."""
        part = step.slices[step.sequences.index(sequence)]
        return min(part.start + len(part.token_ids), length)

    def _scores(self, sequence: Sequence) -> tuple[PositionLogprobs, ...]:
        """Return the prompt's log probabilities, if they are wanted and have not been told yet."""
        if sequence.scores is None or sequence.generated:
            return ()
        return self._sampler.scores(sequence.token_ids[0], sequence.scores)

    def _score(self, step: Step, logits: torch.Tensor) -> None:
        """Keep the log probabilities of prompts' tokens: a position's logits are of the next one."""
        for sequence, row, position in step.scored:
            assert sequence.scores is not None  # noqa: S101 - else it were not among them
            end = self._end_of_prompt(step, sequence, sequence.prompt_length - 1)
            sequence.scores += self._sampler.score(
                logits[row : row + end - position],
                sequence.token_ids[position + 1 : end + 1],
                sequence.choice.sampling.logprobs or 0,
            )

    def _fail(self, sequence: Sequence, message: str) -> Failed:
        self._drop(sequence.request.job_id)
        return Failed(sequence.request.job_id, sequence.generated, EngineFailed.code, message)

    def _drop(self, job_id: str) -> None:
        sequence = self._sequences.pop(job_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._model.release(sequence.key)

    def _release(self, preempted: list[Sequence]) -> None:
        for sequence in preempted:
            self._model.release(sequence.key)
        if preempted:
            self._meter.preempted(len(preempted))

    def _observe(self, step: Step, step_s: float) -> None:
        self._failures = 0
        self._good_steps += 1
        if self._good_steps % _RECOVERY_STEPS == 0:
            self._budget.recover()
            self._scheduler.limit = min(self._scheduler.slots, self._scheduler.limit + 1)
        decoded, prefilled = step.decode_tokens, step.prefill_tokens
        self._budget.observe(decode_tokens=decoded, prefill_tokens=prefilled, step_s=step_s)
        self._meter.step(
            generated=len(step.sampled), decoded=decoded, prefilled=prefilled, step_s=step_s
        )

    def _recover(self, step: Step, error: Exception) -> list[Event]:
        """Go on after a step that failed: with less if memory ran out, else without its sequences.

        :raises EngineFailed: too many steps in a row have failed.
        """
        self._good_steps = 0
        running = len(self._scheduler.running)
        if _is_out_of_memory(error) and (running > 1 or not self._budget.exhausted):
            logger.warning("out of memory with %d sequences: going on with less", running)
            self._budget.shrink()
            if running > 1:
                self._release([self._scheduler.preempt_last()])
                self._scheduler.limit = running - 1
            return []
        logger.error("a step of %d sequences failed", len(step.sequences), exc_info=error)
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            raise EngineFailed(f"{self._failures} steps in a row have failed") from error
        message = f"{type(error).__name__}: {error}"
        return [self._fail(sequence, message) for sequence in step.sequences]


def _tell(sequence: Sequence, token_id: int, logprobs: tuple[PositionLogprobs, ...]) -> Tokens:
    index = sequence.generated
    text = sequence.append(token_id)
    return Tokens(
        sequence.request.job_id,
        index=index,
        token_ids=(token_id,),
        text=text if index else sequence.request.echo_text + text,
        logprobs=logprobs,
        prompt_tokens=None if index else sequence.prompt_length,
    )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
