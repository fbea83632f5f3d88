"""Every Redis key of Penstock, with its type and its lifetime.

Keys of one queue carry the hash tag `{<queue>}`; the Celery list of doorbells is named like the
queue itself, which hashes to the same slot, so a Redis Cluster can serve both.

Everything of a queue lives as long as its longest-lived open job plus the journal's time, even if
no process is left to clean up; most keys go as soon as they are empty.

| key | type | contents; life |
|---|---|---|
| `<queue>` | list | doorbells, Celery's; drained by workers, kept as long as jobs wait by scripts |
| `penstock:{q}:job:<id>` | hash | until its deadline plus the journal's time; once ended, that time |
| `penstock:{q}:journal:<id>` | stream | as its job |
| `penstock:{q}:claim:<token>` | list | a claim's jobs, so that it can be repeated; seconds |
| `penstock:image:<digest>` | string | an image of jobs; as the longest of these |
| `penstock:{q}:tenants:<priority>` | zset | tenant -> virtual time; gone when no job waits |
| `penstock:{q}:waiting:<priority>:<tenant>` | zset | job -> order; gone when empty |
| `penstock:{q}:served:<priority>` | zset | tenant that left ahead of the others -> virtual time; a day |
| `penstock:{q}:arrivals` | zset | waiting job -> time of arrival; gone when no job waits |
| `penstock:{q}:returned` | zset | waiting job that a worker had -> its order; gone when none waits |
| `penstock:{q}:leases` | zset | job -> lease end; gone when nothing runs |
| `penstock:{q}:deadlines` | zset | job -> deadline; gone when no job is open |
| `penstock:{q}:unheard` | zset | job that ended without a listener -> when; as its last journal |
| `penstock:{q}:counters` | hash | sequence, waiting tokens, rates, reaper; a day after the last use |
| `penstock:{q}:workers` | zset | worker that claims here -> end of its announcement; as the last |
| `penstock:{q}:loaders` | zset | worker that can load the model -> as `workers` |
| `penstock:{q}:loading` | string | worker that loads the model now; seconds, renewed by it |
| `penstock:{q}:load_tries` | string | loads that have not ended; ten minutes after the first one |
| `penstock:{q}:holders` | hash | head of a prompt -> worker that computed it last; an hour |
| `penstock:{q}:heads:<worker>` | zset | head in that worker's cache -> when; an hour, renewed by it |
| `penstock:{q}:taken` | hash | worker -> slots with a job, and its slots; a day |
| `penstock:{q}:called:<worker>` | list | a call to look for jobs without a doorbell; seconds |
| `penstock:{q}:utility` | list | tokenizer calls; seconds |
| `penstock:{q}:answers:<hash>` | stream | a tenant's last answers, as tokens, to draft from; a day |
| `penstock:{q}:answer_scopes` | zset | hash of a tenant -> when its answers were added to; a day |
| `penstock:{q}:answer_bytes` | hash | hash of a tenant -> memory of its answers; all of them; a day |
| `penstock:locate:<id>` | string | job -> queue; as its job, but not shortened at its end |
| `penstock:workers` | zset | worker -> end of its announcement; as the last of them |
| `penstock:worker:<id>` | string | a worker's card; seconds, renewed by heartbeat |
| `penstock:store` | string | when this store began; a day, renewed by API processes |
| `penstock:drain:<id>` | string | an operator asked this worker to rest; an hour, renewed by it |
| `penstock:history:<minute>` | hash | one minute's tokens and latencies of all API processes; hours |
| `penstock:models` | zset | queue -> when a worker last served it; a day |
| `penstock:model:<queue>` | string | the last card of a served model; a day |
| `penstock:keys` | hash | hash of an API key -> its card; no end: an operator deletes it |
| `penstock:keys:required` | string | an API key is needed; a day, renewed by API processes |
| `penstock:adapters` | hash | name -> adapter loaded at run time; no end: an operator unloads it |
| `penstock:limit:<key>` | hash | a key's buckets of requests and tokens; until they are full |
| `penstock:quota:<key>:<day or month>` | string | tokens that a key has used; a day or so longer |
| `penstock:<kind>:<id>` | string | a document such as a `response`; `settings.response_ttl_s` |
| `penstock:<kind>:open` | zset | unfinished document -> when it was opened; as the documents |
| `penstock:lease:<name>` | string | holder, such as a batch's driver; seconds, renewed by it |
| `penstock:usage` | stream | usage by request; `settings.usage_log_days` |
| `{penstock:usage}:written:<process>` | string | number of its last row there; a day, renewed |
| `penstock:fastchat:workers` | set | URLs of FastChat workers; twice their life |
| `penstock:fastchat:worker:<hash>` | string | one's card; `settings.fastchat_worker_life_s` |
| `penstock:fastchat:prober` | string | the API process that probes them; seconds |
| `penstock:reply:<process>` | channel | no key: pub/sub to one API process |
"""

from __future__ import annotations

import hashlib
from typing import Final

PREFIX: Final = "penstock"

WORKERS: Final = f"{PREFIX}:workers"

MODELS: Final = f"{PREFIX}:models"

STORE: Final = f"{PREFIX}:store"
"""Unix ms of the moment at which a process first found this store empty."""

API_KEYS: Final = f"{PREFIX}:keys"

KEYS_REQUIRED: Final = f"{PREFIX}:keys:required"
"""There from the first API key on, lest a store that has lost the keys be open to everybody."""

ADAPTERS: Final = f"{PREFIX}:adapters"

PEERS: Final = f"{PREFIX}:fastchat:workers"

PEER_PROBER: Final = f"{PREFIX}:fastchat:prober"

USAGE: Final = f"{PREFIX}:usage"


def usage_written(process: str) -> str:
    """Return the key of an API process's last written row in the usage log.

    The braces put it into the log's hash slot.
    """
    return f"{{{USAGE}}}:written:{process}"


def queue_prefix(queue: str) -> str:
    """Return the prefix of all keys of a queue; scripts append the rest."""
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
    """Return the key of a queue's running jobs, scored by the end of their lease."""
    return f"{queue_prefix(queue)}leases"


def unheard(queue: str) -> str:
    """Return the key of a queue's ended jobs that no API process has accounted for."""
    return f"{queue_prefix(queue)}unheard"


def counters(queue: str) -> str:
    """Return the key of a queue's counters, among them the tokens that wait."""
    return f"{queue_prefix(queue)}counters"


def workers_of(queue: str) -> str:
    """Return the key of the live workers that claim from a queue."""
    return f"{queue_prefix(queue)}workers"


def loaders_of(queue: str) -> str:
    """Return the key of the live workers that load a queue's model on demand."""
    return f"{queue_prefix(queue)}loaders"


def loading(queue: str) -> str:
    """Return the key of the worker that loads a queue's model now."""
    return f"{queue_prefix(queue)}loading"


def load_tries(queue: str) -> str:
    """Return the key of the number of loads that have begun and neither ended nor failed."""
    return f"{queue_prefix(queue)}load_tries"


def answers(queue: str, scope: str) -> str:
    """Return the key of the answers that others of a scope are drafted from."""
    return f"{queue_prefix(queue)}answers:{answer_scope(scope)}"


def answer_scope(scope: str) -> str:
    """Return a scope as keys have it: its hash, since it may be any text."""
    return hashlib.blake2b(scope.encode(), digest_size=16).hexdigest()


def heads(queue: str, worker_id: str) -> str:
    """Return the key of the heads of prompts that a worker has in its cache."""
    return f"{queue_prefix(queue)}heads:{worker_id}"


def holders(queue: str) -> str:
    """Return the key of the workers that hold a queue's heads of prompts."""
    return f"{queue_prefix(queue)}holders"


def taken(queue: str) -> str:
    """Return the key of how many slots of each worker have a job."""
    return f"{queue_prefix(queue)}taken"


def called(queue: str, worker_id: str) -> str:
    """Return the key of the list on which a worker is called to a job."""
    return f"{queue_prefix(queue)}called:{worker_id}"


def tokenizer_calls(queue: str) -> str:
    """Return the key of a queue's tokenizer calls; its name on the wire is `utility`."""
    return f"{queue_prefix(queue)}utility"


JOBS_AND_ARRIVALS: Final = f"{PREFIX}:{{*}}:[ja]*"
"""A pattern for `SCAN` that matches the jobs and the arrivals of all queues (and journals)."""


def job_of(key: str) -> tuple[str, str]:
    """Return the queue and the id of a job's key; "" for what a key does not have of these."""
    queue, brace, name = key.removeprefix(f"{PREFIX}:{{").partition("}:")
    kind, _, job_id = name.partition(":")
    if not brace or kind not in {"job", "arrivals"}:
        return "", ""
    return queue, job_id


def locate(job_id: str) -> str:
    """Return the key that holds the name of a job's queue."""
    return f"{PREFIX}:locate:{job_id}"


def image(digest: str) -> str:
    """Return the key of an image, by its content's digest."""
    return f"{PREFIX}:image:{digest}"


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
    """Return the key of an API key's remaining allowance of this minute."""
    return f"{PREFIX}:limit:{key_id}"


def quota(key_id: str, period: str) -> str:
    """Return the key of an API key's usage in a day ("2026-11-24") or a month ("2026-11")."""
    return f"{PREFIX}:quota:{key_id}:{period}"


def peer(url_hash: str) -> str:
    """Return the key of a FastChat worker's card."""
    return f"{PREFIX}:fastchat:worker:{url_hash}"


def document(kind: str, document_id: str) -> str:
    """Return the key of a document."""
    return f"{PREFIX}:{kind}:{document_id}"


def open_documents(kind: str) -> str:
    """Return the key of the unfinished documents of a kind."""
    return f"{PREFIX}:{kind}:open"


def lease(name: str) -> str:
    """Return the key of a named lease."""
    return f"{PREFIX}:lease:{name}"


def reply(process_id: str) -> str:
    """Return the name of one API process's channel."""
    return f"{PREFIX}:reply:{process_id}"
