"""Stand-ins at the borders of `workers`: an engine, a tokenizer, a claimed job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from penstock.contract.job import FillPrompt, Generate, Job, Prompt, Sampling, TextPrompt
from penstock.contract.worker import ModelCard, WorkerCard, WorkerLoad
from penstock.errors import InvalidParameter
from penstock.models.text.dialect import Reasoning
from penstock.transport.jobs.queue import Claim
from workers.serving.claimed_jobs import ClaimedJob, ClaimedJobs, Outcome, Ticket
from workers.serving.served_queue import ServedQueue, Sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.contract.job import ChatPrompt, PairPrompt
    from penstock.contract.structure import Structure
    from penstock.engine.events import AttemptEvent
    from penstock.engine.sampling.constraint import Constraint
    from penstock.engine.sequence import SequenceRequest


class Slips:
    """Takes what tickets say."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class FakeEngine:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.submitted: list[SequenceRequest] = []
        self.aborted: list[str] = []
        self.failure: BaseException | None = None
        self.step_s = time.monotonic()
        self.is_busy = False
        self.gone: list[str] = []
        self.usual_s: float | None = None

    def start(self) -> None: ...

    def stop(self, timeout_s: float) -> None: ...

    def submit(self, *requests: SequenceRequest) -> None:
        self.submitted += requests

    def abort(self, attempt_ids: Iterable[str]) -> None:
        self.aborted += attempt_ids

    def load(self) -> WorkerLoad:
        return WorkerLoad(running=len(self.submitted))

    def lost_heads(self) -> list[str]:
        gone, self.gone = self.gone, []
        return gone

    def last_step_s(self) -> float:
        return self.step_s

    def busy(self) -> bool:
        return self.is_busy

    def usual_step_s(self) -> float | None:
        return self.usual_s


class FakeHooks:
    """Notes what a worker's part asks of it; `held` loses what is lost, as a worker does."""

    def __init__(self, claimed: ClaimedJobs | None = None) -> None:
        self.claimed = ClaimedJobs() if claimed is None else claimed
        self.resting = False
        self.published: list[AttemptEvent] = []
        self.ended: list[str] = []
        self.lost: list[str] = []
        self.tickets: list[Ticket] = []
        self.looked: list[str] = []
        self.rests: list[bool] = []
        self.consumed: list[bool] = []
        self.broken: list[tuple[str, str]] = []
        self.opens: list[tuple[str, bool]] = []

    def card(self) -> WorkerCard:
        return WorkerCard("w", "host", 1, "0", 0, 0, models=())

    def take(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)

    def publish(self, events: list[AttemptEvent]) -> None:
        self.published += events

    def end(self, claimed: ClaimedJob) -> None:
        self.ended.append(claimed.attempt_id)

    def lose(self, claimed: ClaimedJob) -> None:
        self.lost.append(claimed.attempt_id)
        if self.claimed.pop(claimed.attempt_id) is not None:
            claimed.ticket.done(Outcome.ENDED)

    def look_for_returned(self, served: ServedQueue) -> None:
        self.looked.append(served.queue)

    def rest(self, wanted: bool) -> None:
        self.rests.append(wanted)

    def consume(self, queue: str, wanted: bool) -> None:
        self.consumed.append(wanted)

    def opened(self, served: ServedQueue) -> None:
        self.opens.append((served.queue, served.open))

    def claiming_ended(self) -> None: ...

    def engine_broke(self, served: ServedQueue, reason: str) -> None:
        self.broken.append((served.queue, reason))


class FakeTokenizer:
    """A token a character; refuses the text `refused`."""

    fill_endings = (7,)

    def encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, FillPrompt):
            return [ord(character) for character in prompt.before + prompt.after]
        assert isinstance(prompt, TextPrompt)
        if prompt.text == "refused":
            raise InvalidParameter("no such role")
        return [ord(character) for character in prompt.text]

    def encode_pair(self, prompt: PairPrompt) -> tuple[list[int], list[int]]:
        first, second = map(len, (prompt.first, prompt.second))
        return [ord(c) for c in prompt.first + prompt.second], [0] * first + [1] * second

    def render(self, prompt: ChatPrompt) -> str:
        return str(prompt.messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def reasoning(self, prompt: Prompt, prompt_token_ids: Sequence[int]) -> Reasoning:
        return Reasoning.NONE

    def tokens_of(self, texts: Sequence[str]) -> dict[int, str]:
        return {1: "<|one|>"} if "<|one|>" in texts else {}

    def constrain(self, structure: Structure, reasoning: Reasoning) -> Constraint:
        raise InvalidParameter("no such form")


def make_card(queue: str = "a-cpu", slots: int = 2) -> ModelCard:
    name, _, device = queue.rpartition("-")
    return ModelCard(
        name=name,
        queue=queue,
        device=device,
        backend="transformers",
        format="fp32",
        architecture="LlamaForCausalLM",
        parameters=1_234_567,
        weights_bytes=4 * 2**20,
        context_length=128,
        vocab_size=256,
        slots=slots,
        kv_cache_tokens=1024,
    )


def make_served(queue: str = "a-cpu", slots: int = 2) -> ServedQueue:
    tokenizer: Any = FakeTokenizer()
    engine: Any = FakeEngine()
    return ServedQueue(
        card=make_card(queue, slots),
        tokenizer=tokenizer,
        engine=engine,
        sink=Sink(lambda events: None),
    )


def make_job(job_id: str, queue: str = "a-cpu", text: str = "ab", *, echo: bool = False) -> Job:
    now_ms = int(time.time() * 1000)
    return Job(
        id=job_id,
        queue=queue,
        model=queue.rpartition("-")[0],
        work=Generate(prompt=TextPrompt(text), sampling=Sampling(seed=1), echo=echo),
        reply="penstock:reply:test",
        deadline_ms=now_ms + 60_000,
        created_ms=now_ms,
    )


def claimed_job(
    job_id: str,
    queue: str,
    epoch: int,
    slips: Slips,
    *,
    next_index: int = 0,
    served: ServedQueue | None = None,
) -> ClaimedJob:
    claim = Claim(job=make_job(job_id, queue), epoch=epoch, next_index=next_index, attempt=epoch)
    return ClaimedJob(claim, served or make_served(queue), Ticket(queue, slips))
