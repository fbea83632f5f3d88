"""Stands in for the workers of `benchmarks.relay`: claims every job and feeds it 20 tokens a second.

Run as a process of its own. Streams are dealt out to groups of 64, each of which is appended in one
call a step, as one worker's engine does; the groups' steps are spread over the 50 ms.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis

import penstock
from benchmarks.sleeping import card_of
from penstock import settings
from penstock.contract.events import Tokens
from penstock.contract.worker import WorkerCard
from penstock.transport.fleet.announcer import Announcer
from penstock.transport.jobs.queue import Row, WorkerQueue
from penstock.transport.store.connection import connect

if TYPE_CHECKING:
    from penstock.settings import Settings
    from penstock.transport.jobs.queue import Claim

MODEL = "relay"
QUEUE = "relay-cpu"
STEP_MS = 50
GROUP = 64
_CLAIM_PAUSE_S = 0.005
_LATENESS = "benchmark:lateness"
_REMEMBERED = 400
_LEASE_MS = 600_000


@dataclass
class Group:
    """Up to 64 streams that step together: job id to its epoch and next index."""

    held: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


class Producer:
    """One thread steps, one claims; the lock guards the groups."""

    def __init__(self, chosen: Settings) -> None:
        self._worker_id = f"{socket.gethostname()}:{os.getpid()}"
        self._store = connect(chosen)
        self._jobs = WorkerQueue(self._store, chosen, self._worker_id)
        self._announcer = Announcer(self._store, chosen)
        self._heartbeat_s = chosen.heartbeat_s
        self._groups: list[Group] = []
        self._lock = threading.Lock()
        self._late_ms: deque[float] = deque(maxlen=_REMEMBERED)

    def run(self) -> None:
        """Step for ever; the parent ends this process."""
        for work in (self._claim_for_ever, self._announce_for_ever):
            threading.Thread(target=work, daemon=True).start()
        due_s = time.monotonic()
        while True:
            with self._lock:
                groups = list(self._groups)
            pause_s = STEP_MS / 1000 / max(1, len(groups))
            for group in groups or [Group()]:
                due_s += pause_s
                wait_s = due_s - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                self._late_ms.append(max(0.0, -wait_s * 1000))
                self._step(group)

    def _step(self, group: Group) -> None:
        with self._lock:
            held = list(group.held.items())
        stamp = f"@{time.monotonic_ns()}@"
        rows = [
            Row(
                job_id,
                epoch,
                Tokens(job_id, index, (7,), stamp, prompt_tokens=None if index else 3),
            )
            for job_id, (epoch, index) in held
        ]
        refused = {one.job_id for one in self._jobs.append(QUEUE, rows)}
        with self._lock:
            for job_id, (epoch, index) in held:
                if job_id in refused:
                    del group.held[job_id]
                else:
                    group.held[job_id] = (epoch, index + 1)

    def _claim_for_ever(self) -> None:
        while True:
            claim = self._jobs.claim(QUEUE)
            if claim is None:
                time.sleep(_CLAIM_PAUSE_S)
            else:
                self._add(claim)

    def _add(self, claim: Claim) -> None:
        with self._lock:
            group = next((one for one in self._groups if len(one.held) < GROUP), None)
            if group is None:
                group = Group()
                self._groups.append(group)
            group.held[claim.job.id] = (claim.epoch, claim.next_index)

    def _announce_for_ever(self) -> None:
        card = card_of(QUEUE, GROUP)
        started_ms = int(time.time() * 1000)
        while True:
            now_ms = int(time.time() * 1000)
            version = penstock.__version__
            host = socket.gethostname()
            self._announcer.announce(
                WorkerCard(self._worker_id, host, os.getpid(), version, started_ms, now_ms, (card,))
            )
            late = sorted(self._late_ms) or [0.0]
            self._store.set(_LATENESS, late[int(0.99 * len(late)) - 1], ex=60)
            time.sleep(self._heartbeat_s)


def read_lateness(redis_url: str) -> float:
    """Return the 99th percentile of how late the producer's last steps began, in ms."""
    with redis.Redis.from_url(redis_url) as client:
        return float(client.get(_LATENESS) or 0.0)


if __name__ == "__main__":
    Producer(settings.load().model_copy(update={"lease_ms": _LEASE_MS})).run()
