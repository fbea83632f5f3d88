"""What every request handler needs. `api.lifespan` makes it, once a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    import redis.asyncio

    from api.carrier import Carrier
    from api.http.background import Background
    from api.http.fetching import Fetcher
    from penstock.aliases import Aliases
    from penstock.contract.worker import ModelCard
    from penstock.observability.telemetry import Telemetry
    from penstock.settings import Settings
    from penstock.transport.accounts.keyring import Keyring
    from penstock.transport.accounts.limits import Limits
    from penstock.transport.accounts.quotas import Quotas
    from penstock.transport.accounts.usage_log import UsageLog
    from penstock.transport.fleet.adapters import AdapterStore
    from penstock.transport.fleet.registry import Registry
    from penstock.transport.jobs.images import JobImages
    from penstock.transport.jobs.missing import MissingJobs
    from penstock.transport.jobs.queue import JobQueue
    from penstock.transport.jobs.reconciling import Reconciler
    from penstock.transport.jobs.unclaimed_endings import UnclaimedEndings
    from penstock.transport.replies.all_replies import AllReplies
    from penstock.transport.store.grouped import Grouped, Stores


class ForeignWorkers(Protocol):
    """FastChat's own workers, as far as requests of any protocol need to know of them."""

    def names(self, *, multimodal: bool | None = None) -> list[str]:
        """Return the names of the models that they serve."""
        ...

    def card(self, model: str) -> ModelCard | None:
        """Return the card of a model that one of them serves, or None."""
        ...


@dataclass(frozen=True)
class Services:
    """The fleet as this process sees it. Owned by the event loop."""

    settings: Settings
    telemetry: Telemetry
    redis: redis.asyncio.Redis
    """The home Redis: accounts, documents, usage, FastChat's workers."""
    stores: Stores
    """Every Redis that has jobs, by queue."""
    queue: JobQueue
    replies: AllReplies
    registry: Registry
    keyring: Keyring
    limits: Limits
    quotas: Quotas
    usage: UsageLog
    unheard: UnclaimedEndings
    reconcilers: Grouped[Reconciler]
    images: JobImages
    fetcher: Fetcher
    image_threads: Executor
    """Decode and check the images of requests."""
    adapters: AdapterStore
    missing: MissingJobs
    peers: ForeignWorkers
    aliases: Aliases
    background: Background
    queue_carrier: Carrier
    """Carries the jobs of models that our own workers serve."""
    foreign_carriers: Mapping[str, Carrier]
    """Those of other workers, by `ModelCard.backend`."""

    def carrier(self, card: ModelCard) -> Carrier:
        """Return what carries a model's jobs to its workers."""
        return self.foreign_carriers.get(card.backend, self.queue_carrier)
