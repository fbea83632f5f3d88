"""Every Redis key of Penstock, with its owner and its life.

Keys of one queue carry the hash tag `{<queue>}`; the Celery list of doorbells is named like the
queue itself, which hashes to the same slot, so a Redis Cluster can serve both.

Everything of a queue lives as long as its longest-lived open job and the journal's time after it,
even where no process is left to tidy up; most of it goes at once when it is empty.

| key | type | life |
|---|---|---|
| `<queue>` | list | doorbells, Celery's; drained by workers, kept as long as jobs wait by scripts |
| `penstock:{q}:job:<id>` | hash | until its deadline plus the journal's time; once ended, that time |
| `penstock:{q}:journal:<id>` | stream | as its job |
| `penstock:{q}:claim:<token>` | list | a claim's jobs, so that it can be repeated; seconds |
| `penstock:{q}:tenants:<priority>` | zset | tenant -> virtual time; gone when no job waits |
| `penstock:{q}:waiting:<priority>:<tenant>` | zset | job -> order; gone when empty |
| `penstock:{q}:served:<priority>` | zset | tenant that left ahead of the others -> virtual time; a day |
| `penstock:{q}:arrivals` | zset | waiting job -> time of arrival; gone when no job waits |
| `penstock:{q}:returned` | zset | waiting job that a worker had -> its turn; gone when none waits |
| `penstock:{q}:leases` | zset | job -> lease end; gone when nothing runs |
| `penstock:{q}:deadlines` | zset | job -> deadline; gone when no job is open |
| `penstock:{q}:unheard` | zset | ended job that no API process heard of -> when; as the last one's journal |
| `penstock:{q}:counters` | hash | sequence, waiting tokens, rates, reaper; a day after the last use |
| `penstock:{q}:workers` | zset | worker that claims here -> end of its announcement; as the last |
| `penstock:{q}:utility` | list | small calls; seconds |
| `penstock:locate:<id>` | string | job -> queue; as its job, but not shortened at its end |
| `penstock:workers` | zset | worker -> end of its announcement; as the last of them |
| `penstock:worker:<id>` | string | a worker's card; seconds, renewed by heartbeat |
| `penstock:store` | string | when this store began; a day, renewed by API processes |
| `penstock:drain:<id>` | string | an operator has asked this worker to rest; an hour, renewed by it |
| `penstock:history:<minute>` | hash | one minute's tokens and latencies of all API processes; hours |
| `penstock:models` | zset | queue -> when a worker last served it; a day |
| `penstock:model:<queue>` | string | the last card of a served model; a day |
| `penstock:keys` | hash | hash of an API key -> its card; without end: an operator's |
| `penstock:limit:<key>` | hash | a key's buckets of requests and tokens; until they are full |
| `penstock:quota:<key>:<day or month>` | string | tokens that a key has used; a day or so longer |
| `penstock:<kind>:<id>` | string | a document such as a `response`; `settings.response_ttl_s` |
| `penstock:<kind>:open` | zset | document that is not finished -> when it was opened; as they |
| `penstock:lease:<name>` | string | who drives a batch; seconds, renewed by it |
| `penstock:usage` | stream | what was generated for whom; `settings.usage_log_days` |
| `{penstock:usage}:written:<process>` | string | number of its last row there; a day, renewed |
| `penstock:fastchat:workers` | set | URLs of FastChat workers; twice their life |
| `penstock:fastchat:worker:<hash>` | string | one's card; `settings.fastchat_worker_life_s` |
| `penstock:fastchat:prober` | string | the API process that asks them for their status; seconds |
| `penstock:reply:<process>` | channel | no key: pub/sub to one API process |
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "penstock"

WORKERS: Final = f"{PREFIX}:workers"

MODELS: Final = f"{PREFIX}:models"

STORE: Final = f"{PREFIX}:store"
"""Unix ms of the moment at which somebody first looked into an empty store."""

API_KEYS: Final = f"{PREFIX}:keys"

PEERS: Final = f"{PREFIX}:fastchat:workers"

PEER_PROBER: Final = f"{PREFIX}:fastchat:prober"

USAGE: Final = f"{PREFIX}:usage"


def usage_written(process: str) -> str:
    """Return the key that tells how far an API process has come in the usage log.

    The braces put it into the log's slot.
    """
    return f"{{{USAGE}}}:written:{process}"


def queue_prefix(queue: str) -> str:
    """Return what every key of one queue starts with; scripts append the rest."""
    return f"{PREFIX}:{{{queue}}}:"


def job(queue: str, job_id: str) -> str:
    """Return the key of a job's hash."""
    return f"{queue_prefix(queue)}job:{job_id}"


def journal(queue: str, job_id: str) -> str:
    """Return the key of a job's stream of events."""
    return f"{queue_prefix(queue)}journal:{job_id}"


def arrivals(queue: str) -> str:
    """Return the key of a queue's waiting jobs; its cardinality is their number."""
    return f"{queue_prefix(queue)}arrivals"


def leases(queue: str) -> str:
    """Return the key of a queue's running jobs, by the end of their lease."""
    return f"{queue_prefix(queue)}leases"


def unheard(queue: str) -> str:
    """Return the key of a queue's ended jobs that no API process has accounted for."""
    return f"{queue_prefix(queue)}unheard"


def counters(queue: str) -> str:
    """Return the key of a queue's numbers, among them the weight of what waits."""
    return f"{queue_prefix(queue)}counters"


def workers_of(queue: str) -> str:
    """Return the key of the live workers that claim from a queue, for their shares."""
    return f"{queue_prefix(queue)}workers"


def utility(queue: str) -> str:
    """Return the key of a queue's list of small calls."""
    return f"{queue_prefix(queue)}utility"


def locate(job_id: str) -> str:
    """Return the key that tells a job's queue."""
    return f"{PREFIX}:locate:{job_id}"


def worker(worker_id: str) -> str:
    """Return the key of a worker's card."""
    return f"{PREFIX}:worker:{worker_id}"


def drain(worker_id: str) -> str:
    """Return the key that asks a worker to claim nothing more."""
    return f"{PREFIX}:drain:{worker_id}"


def history(minute: int) -> str:
    """Return the key of one minute's figures; `minute` is Unix time in whole minutes."""
    return f"{PREFIX}:history:{minute}"


def model(queue: str) -> str:
    """Return the key of a queue's last model card."""
    return f"{PREFIX}:model:{queue}"


def limit(key_id: str) -> str:
    """Return the key of what an API key may still use this minute."""
    return f"{PREFIX}:limit:{key_id}"


def quota(key_id: str, period: str) -> str:
    """Return the key of what an API key has used in a day ("2026-11-24") or a month."""
    return f"{PREFIX}:quota:{key_id}:{period}"


def peer(url_hash: str) -> str:
    """Return the key of a FastChat worker's card."""
    return f"{PREFIX}:fastchat:worker:{url_hash}"


def document(kind: str, document_id: str) -> str:
    """Return the key of a document."""
    return f"{PREFIX}:{kind}:{document_id}"


def open_documents(kind: str) -> str:
    """Return the key of the documents of a kind that are not finished."""
    return f"{PREFIX}:{kind}:open"


def lease(name: str) -> str:
    """Return the key of a lease."""
    return f"{PREFIX}:lease:{name}"


def reply(process_id: str) -> str:
    """Return the channel of one API process."""
    return f"{PREFIX}:reply:{process_id}"
