"""Every Redis key of Penstock, with its owner and its life.

Keys of one queue carry the hash tag `{<queue>}`; the Celery list of doorbells is named like the
queue itself, which hashes to the same slot, so a Redis Cluster can serve both.

| key | type | life |
|---|---|---|
| `<queue>` | list | doorbells, Celery's; drained by workers, refilled by the reaper |
| `penstock:{q}:job:<id>` | hash | until its deadline plus the journal's time |
| `penstock:{q}:journal:<id>` | stream | as its job |
| `penstock:{q}:tenants:<priority>` | zset | tenant -> virtual time; gone when no job waits |
| `penstock:{q}:waiting:<priority>:<tenant>` | zset | job -> order; gone when empty |
| `penstock:{q}:leases` | zset | job -> lease end; gone when nothing runs |
| `penstock:{q}:deadlines` | zset | job -> deadline; gone when no job is open |
| `penstock:{q}:counters` | hash | waiting jobs and tokens, sequence; a day after the last submit |
| `penstock:{q}:utility` | list | small calls; seconds |
| `penstock:locate:<id>` | string | job -> queue; as its job |
| `penstock:workers` | zset | worker -> end of its announcement |
| `penstock:worker:<id>` | string | a worker's card; seconds, renewed by heartbeat |
| `penstock:model:<queue>` | string | the last card of a served model; a day |
| `penstock:reply:<process>` | channel | no key: pub/sub to one API process |
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "penstock"

WORKERS: Final = f"{PREFIX}:workers"


def queue_prefix(queue: str) -> str:
    """Return what every key of one queue starts with; scripts append the rest."""
    return f"{PREFIX}:{{{queue}}}:"


def job(queue: str, job_id: str) -> str:
    """Return the key of a job's hash."""
    return f"{queue_prefix(queue)}job:{job_id}"


def journal(queue: str, job_id: str) -> str:
    """Return the key of a job's stream of events."""
    return f"{queue_prefix(queue)}journal:{job_id}"


def utility(queue: str) -> str:
    """Return the key of a queue's list of small calls."""
    return f"{queue_prefix(queue)}utility"


def locate(job_id: str) -> str:
    """Return the key that tells a job's queue."""
    return f"{PREFIX}:locate:{job_id}"


def worker(worker_id: str) -> str:
    """Return the key of a worker's card."""
    return f"{PREFIX}:worker:{worker_id}"


def model(queue: str) -> str:
    """Return the key of a queue's last model card."""
    return f"{PREFIX}:model:{queue}"


def reply(process_id: str) -> str:
    """Return the channel of one API process."""
    return f"{PREFIX}:reply:{process_id}"
