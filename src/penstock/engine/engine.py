"""The engine: requests in, one `step()` after another, events out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from penstock.contract.events import Event, Failed, Finished, Tokens
from penstock.engine.drafting.speculation import Speculation
from penstock.engine.events import finish, tell
from penstock.engine.kv_cache import BlockPool
from penstock.engine.model import Model, Watched, shows_hidden
from penstock.engine.pacing.meter import Meter
from penstock.engine.pacing.prefill_budget import PrefillBudget
from penstock.engine.pacing.step_watch import UsualSteps
from penstock.engine.pipelining import Lookahead, PipelinedModel
from penstock.engine.prompt_readout import forward
from penstock.engine.recovery import is_device_lost, is_out_of_memory, one_by_one
from penstock.engine.runner import Runner
from penstock.engine.sampling.sampler import Chosen, Sampler
from penstock.engine.scheduler import Scheduler, Step
from penstock.engine.sequence import Limits, Sequence, SequenceRequest
from penstock.engine.text.detokenizer import DecodeCache, Tokenizer
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
        self._speculation = Speculation(options.speculation_tokens)
        self._sampler = Sampler(tokenizer.token_text, tokenizer.token_bytes)
        # A draft is checked in one step: a step ahead would be of the tokens before it.
        self._lookahead = (
            Lookahead(model, self._scheduler)
            if isinstance(model, PipelinedModel) and not options.speculation_tokens
            else None
        )
        self._meter = Meter()
        self._usual = UsualSteps()
        self._sequences: dict[str, Sequence] = {}
        self._accepted = 0
        self._failures = 0
        self._good_steps = 0
        self._runner: Runner[SequenceRequest | _Abort] = Runner(self._turn, "penstock-engine")

    def start(self) -> None:
        """Start the engine's thread."""
        if isinstance(self._model, Watched):
            self._model.watched()
        self._runner.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the engine's thread after its step; what is unfinished gets no event.

        :raises TimeoutError: the step takes longer than `timeout_s`.
        """
        self._runner.stop(timeout_s)

    def submit(self, *requests: SequenceRequest) -> None:
        """Take requests, all before the same step; what is wrong with one comes as a `Failed` event.

        A request of a job that is here already takes its place.
        """
        self._runner.post(*requests)

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

    def usual_step_s(self) -> float | None:
        """Return how long steps like the one under way take at most; None where that is unknown."""
        return self._usual.longest_s(self._runner.last_turn_s)

    def busy(self) -> bool:
        """Return whether any sequence is here, on its way in, or has events on their way out."""
        return bool(self._sequences) or self._runner.busy

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine's thread, if it has ended by itself; or the model under it."""
        if self._runner.failure is None and isinstance(self._model, Watched):
            return self._model.failure
        return self._runner.failure

    def step(self) -> list[Event]:
        """Schedule, run, sample, postprocess: a token or more for every sequence that is ready."""
        scheduler = self._scheduler
        if self._lookahead is not None and self._lookahead.under_way:
            return self._land(self._lookahead)
        decoding = scheduler.decoding()
        drafts = self._speculation.plan(decoding)
        step = scheduler.schedule(self._budget.tokens(decoding=len(decoding)), drafts)
        self._release(step.preempted)
        if not step.slices:
            return []
        started_s = time.perf_counter()
        try:
            if self._lookahead is not None and self._lookahead.begin(step):
                return []
            with torch.inference_mode():
                logits = forward(self._model, step, self._sampler)
                chosen = self._sampler.sample(logits, step.choices())
        except Exception as error:  # noqa: BLE001 - any error of a backend is the step's
            return self._recover(step, error)
        step_s = time.perf_counter() - started_s
        events = self._postprocess(step, chosen)
        self._observe(step, step_s)
        return events

    def _land(self, lookahead: Lookahead) -> list[Event]:
        """Take in the step that is under way, the next one having been launched before."""
        under_way: Step = lookahead.step
        try:
            step, token_ids, step_s = lookahead.turn(may_follow=not self._runner.posted)
        except Exception as error:  # noqa: BLE001 - as in `step`
            lookahead.forget()
            return self._recover(self._present(under_way), error, repeatable=False)
        chosen = {id(s): token for s, token in zip(step.sampled, token_ids, strict=True)}
        step = self._present(step)
        tokens = [chosen[id(sequence)] for sequence in step.sampled]
        events = self._postprocess(step, Chosen([t if t >= 0 else None for t in tokens], {}))
        self._observe(step, step_s)
        return events

    def _present(self, step: Step) -> Step:
        """What of a step belongs to sequences that have not ended or been given up meanwhile."""
        return step.of([self._sequences.get(s.request.job_id) is s for s in step.sequences])

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
        row = 0
        for sequence, draft in zip(step.sampled, step.drafts, strict=True):
            if chosen.token_ids[row] is None:
                error = sequence.choice.failure
                error = error or EngineFailed("the model's logits are not numbers")
                events.append(self._fail(sequence, error))
            elif sequence.finish_reason is None:  # else nothing but the scores was asked for
                events.append(self._tell(sequence, draft, chosen, row))
            row += 1 + len(draft)
        self._scheduler.advance(step)
        for sequence in step.sampled:
            if sequence.finish_reason is not None:
                self._drop(sequence.request.job_id)
                events.append(self._finish(sequence))
        return events

    def _tell(self, sequence: Sequence, draft: tuple[int, ...], chosen: Chosen, row: int) -> Tokens:
        said = tell(sequence, draft, chosen, row, self._sampler)
        self._speculation.learn(sequence, list(said.token_ids))
        self._meter.told(tokens=len(said.token_ids), drafted=len(draft))
        return said

    def _finish(self, sequence: Sequence) -> Finished:
        self._meter.finished()
        return finish(sequence, self._sampler)

    def _fail(self, sequence: Sequence, error: PenstockError) -> Failed:
        job_id = sequence.request.job_id
        self._drop(job_id)
        return Failed(job_id, sequence.generated, error.code, error.message, error.param or "")

    def _drop(self, job_id: str) -> None:
        sequence = self._sequences.pop(job_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._speculation.forget(sequence.key)
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
        self._budget.observe(tokens=decoded + prefilled, step_s=step_s)
        if not prefilled:
            self._speculation.observe(decoded, step_s)
        self._meter.step(prefilled=prefilled, step_s=step_s)
        self._usual.add(step_s)

    def _recover(self, step: Step, error: Exception, *, repeatable: bool = True) -> list[Event]:
        """Go on after a step that failed: with less if memory ran out, else without who did it.

        :raises EngineFailed: nothing can be computed here; the sequences may go on elsewhere.
        """
        if isinstance(error, EngineFailed):
            raise error
        self._good_steps = 0
        running = len(self._scheduler.running)
        starved = is_out_of_memory(error)
        if starved and (running > 1 or not self._budget.exhausted):
            logger.warning("out of memory with %d sequences: going on with less", running)
            self._budget.shrink()
            if running > 1:
                self._release([self._scheduler.preempt_last()])
                self._scheduler.limit = running - 1
            return []
        if starved or is_device_lost(error):
            raise EngineFailed(f"{type(error).__name__}: {error}") from error
        logger.error("a step of %d sequences failed", len(step.sequences), exc_info=error)
        if repeatable and len(step.sequences) > 1:
            return self._one_by_one(step)
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            raise EngineFailed(f"{self._failures} steps in a row have failed") from error
        failure = EngineFailed(f"{type(error).__name__}: {error}")
        return [self._fail(sequence, failure) for sequence in step.sequences]

    def _one_by_one(self, step: Step) -> list[Event]:
        """Repeat a step that failed, each sequence alone: one may be at fault, not its neighbours.

        :raises EngineFailed: all of them failed, so that none is to blame.
        """
        told: list[tuple[Step, Chosen]] = []
        failed: list[tuple[Sequence, Exception]] = []
        for alone in one_by_one(step, self._scheduler.pool.block_size):
            try:
                with torch.inference_mode():
                    logits = forward(self._model, alone, self._sampler)
                    told.append((alone, self._sampler.sample(logits, alone.choices())))
            except Exception as error:
                if isinstance(error, EngineFailed):
                    raise
                if is_out_of_memory(error) or is_device_lost(error):
                    raise EngineFailed(f"{type(error).__name__}: {error}") from error
                failed.append((alone.sequences[0], error))
        if not told:
            raise EngineFailed("a step failed, and each of its sequences alone") from failed[0][1]
        self._failures = 0
        events: list[Event] = []
        for alone, chosen in told:
            events += self._postprocess(alone, chosen)
        events += [
            self._fail(one, EngineFailed(f"{type(error).__name__}: {error}"))
            for one, error in failed
        ]
        return events
