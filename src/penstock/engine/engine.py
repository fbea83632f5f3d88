"""The engine: requests in, one `step()` after another, events out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.engine.drafting.head_drafts import model_drafts
from penstock.engine.drafting.speculation import Drafter, Speculation
from penstock.engine.events import AttemptEvent, new_tokens
from penstock.engine.execution import PlainExecutor, StepFailed
from penstock.engine.failures import Failures
from penstock.engine.kv_cache import BlockTables
from penstock.engine.model import Model, Watched, stateful, storable
from penstock.engine.pacing.meter import Meter
from penstock.engine.pacing.prefill_budget import PrefillBudget
from penstock.engine.pacing.step_watch import StepWatch
from penstock.engine.pipelining import PipelinedExecutor, PipelinedModel
from penstock.engine.reuse.stored_blocks import StoredBlocks
from penstock.engine.runner import Runner
from penstock.engine.sampling.sampler import Sampler
from penstock.engine.scheduler import Scheduler
from penstock.engine.sequence import Limits, SequenceRequest
from penstock.engine.sequence_table import SequenceTable
from penstock.engine.states import StatePool
from penstock.engine.step import Step
from penstock.engine.text.detokenizer import DecodeCache, Tokenizer
from penstock.errors import BadSettings, EngineFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.contract.worker import WorkerLoad
    from penstock.engine.drafting.answer_index import AnswerIndex
    from penstock.engine.drafting.draft_model import DraftModel
    from penstock.engine.execution import Computed, Executor
    from penstock.engine.options import EngineOptions
    from penstock.engine.reuse.kv_store import KVStore


logger = logging.getLogger(__name__)

WARM_S: Final = 2.0
"""How long a start may take to find blocks in the store again."""


@dataclass(frozen=True, slots=True)
class _Abort:
    attempt_ids: frozenset[str]


class Engine:
    """Continuous batching of one model.

    Only the thread that `start` begins touches the model, the scheduler and the sequences;
    `submit`, `abort` and the figures are for any thread. `sink` is called in the engine's thread,
    once for each step that has events; while it blocks, the engine waits.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        options: EngineOptions,
        sink: Callable[[list[AttemptEvent]], None],
        *,
        drafter: Drafter | None = None,
        answers: AnswerIndex | None = None,
        store: KVStore | None = None,
        draft_model: DraftModel | None = None,
    ) -> None:
        """`drafter` proposes tokens; by default as `options.speculation_tokens` has it.

        The default one drafts from `answers` too, and adds to them, and by `draft_model`, or else by
        the model's own head. Blocks are kept in `store` too, if the model's can be; the engine starts
        and closes it.

        :raises BadSettings: the model keeps states, and there is not one for each slot.
        """
        tables = BlockTables.of(
            model.kv_layout,
            options.num_blocks,
            options.num_window_blocks,
            caching=options.prefix_caching,
        )
        most_tokens = options.num_blocks * model.kv_layout.block_size
        self._model = model
        self._sink = sink
        keeping = stateful(model)
        if keeping is not None and options.num_states < options.slots:
            raise BadSettings(f"engine: {options.num_states} states for {options.slots} slots")
        states = None if keeping is None else StatePool(keeping, options.num_states)
        self._budget = PrefillBudget(options)
        own_drafter = drafter is not None
        if drafter is None:
            guessing = model_drafts(model, tables, draft_model, spare_blocks=options.slots)
            most, replays = options.speculation_tokens, keeping is not None
            drafter = Speculation(most, answers, guessing, replays=replays)
        self._drafter = drafter
        self._store = store
        kept = storable(model) if store is not None and options.prefix_caching else None
        self._stored = None
        if store is not None and kept is not None:
            self._stored = StoredBlocks(kept, store, tables, lambda: self._budget.token_s)
        self._scheduler = Scheduler(tables, options.slots, states, self._stored)
        self._sampler = Sampler(tokenizer.token_text, tokenizer.token_bytes)
        plain = PlainExecutor(model, self._sampler)
        # A draft is verified in one step: the step after it cannot begin before its outcome.
        drafts = own_drafter or options.speculation_tokens
        self._executor: Executor = plain
        if isinstance(model, PipelinedModel) and not drafts:
            self._executor = PipelinedExecutor(model, plain)
        self._failures = Failures(plain, self._scheduler, self._budget)
        self._meter = Meter()
        self._step_watch = StepWatch()
        self._table = SequenceTable(
            model,
            self._scheduler,
            self._sampler,
            self._drafter,
            self._meter,
            limits=Limits(
                min(model.context_length, most_tokens),
                model.vocab_size,
                frozenset(i for i in tokenizer.eos_token_ids if 0 <= i < model.vocab_size),
            ),
            decode_cache=DecodeCache(tokenizer),
        )
        self._runner: Runner[SequenceRequest | _Abort] = Runner(self._turn, "penstock-engine")

    def start(self) -> None:
        """Start the engine's thread."""
        if isinstance(self._model, Watched):
            self._model.watched()
        if self._store is not None and self._stored is not None:
            self._store.start()
            began_s = time.monotonic()
            count = self._stored.warm(WARM_S)
            logger.info(
                "Found %d blocks of the KV cache again in %.2f s", count, time.monotonic() - began_s
            )
        self._runner.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the engine's thread after its step; unfinished requests get no event.

        :raises TimeoutError: the step takes longer than `timeout_s`.
        """
        self._runner.stop(timeout_s)
        if self._store is not None:
            self._store.close()

    def turn(self) -> bool:
        """Take what was submitted and aborted and make one step, without the engine's thread.

        Returns whether any sequence is left.
        """
        return self._runner.turn()

    def submit(self, *requests: SequenceRequest) -> None:
        """Take requests, all before the same step; one that is invalid ends with a `Failed` event.

        A request whose attempt is already running replaces it.
        """
        self._runner.post(*requests)

    def abort(self, attempt_ids: Iterable[str]) -> None:
        """Drop these attempts if they are here; their slots are free at the next step.

        No event is emitted.
        """
        self._runner.post(_Abort(frozenset(attempt_ids)))

    def load(self) -> WorkerLoad:
        """Return the engine's load: what runs, what waits, and its rates."""
        scheduler = self._scheduler
        return self._meter.read(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + self._runner.posted,
            kv_use=scheduler.tables.use,
            prefill_token_s=self._budget.token_s,
            stored=None if self._stored is None else self._stored.figures(),
        )

    def lost_heads(self) -> list[str]:
        """Return the heads of requests that the prefix cache has dropped since the last call."""
        return self._scheduler.lost_heads()

    def last_step_s(self) -> float:
        """Return the monotonic time at which the last step, or idle tick, ended."""
        return self._runner.last_turn_s

    def usual_step_s(self) -> float | None:
        """Return the longest recent time of steps like the current one; None if unknown."""
        return self._step_watch.longest_s(self._runner.last_turn_s)

    def busy(self) -> bool:
        """Return whether any sequence is here, is about to be, or has events to be delivered."""
        return bool(self._table) or self._runner.busy

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the engine's thread, or the model's processes."""
        if self._runner.failure is None and isinstance(self._model, Watched):
            return self._model.failure
        return self._runner.failure

    def _turn(self, commands: list[SequenceRequest | _Abort]) -> bool:
        """Take the commands, make a step, deliver its events; return whether any work is left."""
        events: list[AttemptEvent] = []
        for command in commands:
            if isinstance(command, _Abort):
                for attempt_id in command.attempt_ids:
                    self._table.drop(attempt_id)
            else:
                events += self._table.accept(command)
        events += self.step()
        if events:
            self._sink(events)
        return bool(self._table)

    def step(self) -> list[AttemptEvent]:
        """Schedule, run, postprocess: a token or more for every sequence that is ready."""
        step = self._schedule()
        try:
            computed = self._executor.run(step)
        except StepFailed as failure:
            return self._recover(failure)
        if computed is None:
            return []
        computed = self._table.only_present(computed)
        self._observe(computed)
        return self._postprocess(computed)

    def _schedule(self) -> Step:
        under_way = self._executor.under_way
        if under_way is not None:
            return Step() if self._runner.posted else self._scheduler.follow(under_way)
        decoding = self._scheduler.decoding()
        drafts = self._drafter.plan(decoding)
        tokens = self._budget.tokens(decoding=len(decoding), alone=self._scheduler.is_alone)
        step = self._scheduler.schedule(tokens, drafts)
        self._table.release(step.preempted)
        return step

    def _postprocess(self, computed: Computed) -> list[AttemptEvent]:
        """Append the new tokens to their sequences, and remove those that end."""
        step, chosen = computed.step, computed.chosen
        events: list[AttemptEvent] = []
        row = 0
        for sequence, draft in zip(step.sampled, step.drafts, strict=True):
            if chosen.token_ids[row] is None:
                error = sequence.choice.failure
                error = error or EngineFailed("the model's logits are not numbers")
                events.append(self._table.fail(sequence, error))
            elif sequence.finish_reason is None:  # else only the prompt's scores were requested
                tokens = new_tokens(sequence, draft, chosen, row, self._sampler)
                kind = self._drafter.kind(sequence) if draft else ""
                self._drafter.learn(sequence, list(tokens.token_ids))
                self._meter.emitted(tokens=len(tokens.token_ids), drafted=len(draft), kind=kind)
                events.append(AttemptEvent(sequence.request.attempt_id, tokens))
            row += 1 + len(draft)
        self._scheduler.advance(step)
        ended = [sequence for sequence in step.sampled if sequence.finish_reason is not None]
        return events + [self._table.finish(sequence) for sequence in ended]

    def _observe(self, computed: Computed) -> None:
        """Learn from a step's time how large the next ones may be."""
        self._failures.step_succeeded()
        step, step_s = computed.step, computed.step_s
        decoded, prefilled = step.decode_tokens, step.prefill_tokens
        self._budget.observe(tokens=decoded + prefilled, step_s=step_s)
        if not prefilled:
            self._drafter.observe(decoded, step_s + self._scheduler.saving_s)
        self._meter.step(prefilled=prefilled, step_s=step_s)
        self._step_watch.add(step_s)

    def _recover(self, failure: StepFailed) -> list[AttemptEvent]:
        """Go on after a failed step, with what `Failures` makes of it.

        :raises EngineFailed: nothing can be computed here.
        """
        step = failure.step
        if not failure.repeatable:
            step = step.only(self._table.present(step))
        recovery = self._failures.recover(step, failure.error, repeatable=failure.repeatable)
        self._table.release(recovery.preempted)
        events = [event for part in recovery.computed for event in self._postprocess(part)]
        return events + [self._table.fail(sequence, error) for sequence, error in recovery.failed]
