"""Many workers in one process, for `benchmarks.scale`: all of a worker but Celery's own loop and torch.

Each has the product's station (preparer, publisher, heartbeat and tokenizer threads), its pool, and
kombu's Redis transport that Celery takes doorbells with. Its engine says a token a step for each
of its jobs and sleeps in between; one thread steps all engines of the process.
"""

from __future__ import annotations

import heapq
import logging
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kombu import Connection, Queue

from benchmarks.sleeping import WordTokenizer, card_of
from penstock import settings
from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.contract.worker import WorkerLoad
from penstock.engine.events import AttemptEvent
from penstock.transport.store.connection import connect
from workers.delivery.application import configuration
from workers.delivery.pool import EnginePool
from workers.serving.identity import new_worker_id
from workers.serving.served_queue import ServedQueue, Sink
from workers.serving.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection as Pipe

    from penstock.engine.sequence import SequenceRequest

DRAIN_S = 1.0
"""How long a simulated Celery loop sleeps before it looks at what its pool has for it."""
RESTORE_S = 10.0
"""How often Celery's event loop looks for messages that nobody acknowledged."""


@dataclass
class Tally:
    """What the workers of a process have done since the last look. The lock guards it."""

    tokens: int = 0
    jobs: int = 0
    steps: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])
    by_tenant: Counter[int] = field(default_factory=Counter[int])
    late_ms: list[float] = field(default_factory=list[float])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> dict[str, Any]:
        """Return the figures and reset them."""
        with self.lock:
            taken = {
                "tokens": self.tokens,
                "jobs": self.jobs,
                "steps": self.steps,
                "latencies_ms": self.latencies_ms,
                "by_tenant": dict(self.by_tenant),
                "late_ms": self.late_ms,
            }
            self.tokens = self.jobs = self.steps = 0
            self.latencies_ms, self.late_ms, self.by_tenant = [], [], Counter()
        return taken


@dataclass
class _Running:
    job_id: str
    tokens: int
    most: int
    prompt_tokens: int


class SleepingEngine:
    """Says one token a step for each job. The metronome's thread steps it, any thread submits.

    A prompt is (tenant, two halves of the submission's monotonic time in µs).
    """

    failure = None

    def __init__(self, sink: Sink, tally: Tally) -> None:
        self._sink = sink
        self._tally = tally
        self._jobs: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._last_s = time.monotonic()

    def start(self) -> None:
        """Need no thread."""

    def stop(self, timeout_s: float) -> None:
        """Need no thread."""

    def submit(self, *requests: SequenceRequest) -> None:
        """Take jobs, and note how long each one's way here was."""
        for request in requests:
            self._take(request)

    def _take(self, request: SequenceRequest) -> None:
        tenant, high, low = request.prompt_token_ids
        latency_ms = time.monotonic() * 1e3 - ((high << 30) + low) / 1e3
        with self._tally.lock:
            self._tally.latencies_ms.append(latency_ms)
            self._tally.by_tenant[tenant] += 1
        most = request.sampling.max_tokens or 1
        with self._lock:
            first = len(request.generated_token_ids)
            self._jobs[request.attempt_id] = _Running(request.job_id, first, most, 3)

    def abort(self, attempt_ids: Iterable[str]) -> None:
        """Forget jobs."""
        with self._lock:
            for attempt_id in attempt_ids:
                self._jobs.pop(attempt_id, None)

    def load(self) -> WorkerLoad:
        """Tell how many run."""
        return WorkerLoad(running=len(self._jobs), decode_tokens_per_s=1.0)

    def last_step_s(self) -> float:
        """When it last stepped."""
        return self._last_s

    def busy(self) -> bool:
        """Whether it has jobs."""
        return bool(self._jobs)

    def step(self) -> None:
        """Say a token of every job, and the end of those that have all of theirs."""
        events: list[AttemptEvent] = []
        ended = 0
        with self._lock:
            for attempt_id, job in list(self._jobs.items()):
                prompt = None if job.tokens else job.prompt_tokens
                tokens = Tokens(job.job_id, job.tokens, (7,), " word", prompt_tokens=prompt)
                events.append(AttemptEvent(attempt_id, tokens))
                job.tokens += 1
                if job.tokens >= job.most:
                    usage = Usage(job.prompt_tokens, job.tokens)
                    end = Finished(job.job_id, job.tokens, FinishReason.LENGTH, usage)
                    events.append(AttemptEvent(attempt_id, end))
                    del self._jobs[attempt_id]
                    ended += 1
        self._last_s = time.monotonic()
        if events:
            self._sink(events)
            with self._tally.lock:
                self._tally.tokens += len(events) - ended
                self._tally.jobs += ended
                self._tally.steps += 1


class Metronome(threading.Thread):
    """Steps every engine once a step, the engines' steps spread evenly."""

    def __init__(self, step_s: float, tally: Tally) -> None:
        super().__init__(name="metronome", daemon=True)
        self._step_s = step_s
        self._tally = tally
        self._due: list[tuple[float, int, SleepingEngine]] = []
        self._lock = threading.Lock()

    def add(self, engine: SleepingEngine) -> None:
        """Step this one too."""
        with self._lock:
            number = len(self._due)
            offset_s = self._step_s * (number * 0.618 % 1.0)
            heapq.heappush(self._due, (time.monotonic() + offset_s, number, engine))

    def run(self) -> None:
        """Step for ever."""
        while True:
            with self._lock:
                due = heapq.heappop(self._due) if self._due else None
            if due is None:
                time.sleep(0.01)
                continue
            due_s, number, engine = due
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            engine.step()
            with self._tally.lock:
                self._tally.late_ms.append(max(0.0, -wait_s * 1e3))
            with self._lock:
                heapq.heappush(self._due, (due_s + self._step_s, number, engine))


class SimulatedWorker(threading.Thread):
    """One worker; its thread stands for Celery's main loop."""

    def __init__(self, queue: str, slots: int, metronome: Metronome, tally: Tally) -> None:
        super().__init__(name=f"celery-{queue}", daemon=True)
        chosen = settings.load()
        self._queue = queue

        def open_queues(publish: Callable[..., None]) -> list[ServedQueue]:
            sink = Sink(publish)
            words: Any = WordTokenizer()  # what these jobs call of a tokenizer
            engine: Any = SleepingEngine(sink, tally)
            metronome.add(engine)
            return [ServedQueue(card_of(queue, slots), words, engine, sink)]

        self._worker = Worker(
            settings=chosen,
            store=connect(chosen),
            worker_id=new_worker_id(),
            open_queues=open_queues,
        )
        self._pool = EnginePool(limit=slots)
        self._pool.attach(self._worker, SimpleNamespace(consumer=None))

    def run(self) -> None:
        """Start the station, then deliver doorbells until the process ends."""
        self._worker.start()
        celery = configuration()
        broker = Connection(
            celery["broker_url"], transport_options=celery["broker_transport_options"]
        )
        with broker as connection:
            channel = connection.default_channel
            cycle: Any = connection.transport.cycle
            restore, cycle.maybe_restore_messages = cycle.maybe_restore_messages, lambda: None
            restored_s = time.monotonic()
            consumer = connection.Consumer(
                [Queue(self._queue, routing_key=self._queue)],
                accept=["json"],
                on_message=self._bell,
                prefetch_count=self._worker.slots,
                channel=channel,
            )
            with consumer:
                while True:
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=DRAIN_S)
                    self._pool.pump()
                    if time.monotonic() - restored_s > RESTORE_S:
                        restored_s = time.monotonic()
                        restore()

    def _bell(self, message: Any) -> None:
        request = {"delivery_info": {"routing_key": message.delivery_info["routing_key"]}}
        self._pool.on_apply(
            None,
            (message.headers["task"], message.headers["id"], request),
            callback=lambda _result: message.ack(),
            error_callback=lambda _info: message.requeue(),
        )


def serve(pipe: Pipe, step_ms: int, slots: int) -> None:
    """Do as the benchmark's process says: ("grow", queues), ("take",), ("end",)."""
    logging.disable(logging.WARNING)
    threading.stack_size(256 * 1024)
    tally = Tally()
    metronome = Metronome(step_ms / 1000, tally)
    metronome.start()
    while True:
        word, *arguments = pipe.recv()
        if word == "grow":
            for queue in arguments[0]:
                SimulatedWorker(queue, slots, metronome, tally).start()
            pipe.send(True)
        elif word == "take":
            pipe.send({**tally.take(), "cpu_s": time.process_time()})
        else:
            os._exit(0)
