"""Which workers live and which models they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.contract.worker import ModelCard, WorkerCard, WorkerLoad

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings


class Served(msgspec.Struct, frozen=True):
    """One queue that serves a model: its card, its live workers (none in the grace time), their summed load."""

    card: ModelCard
    workers: tuple[WorkerCard, ...]
    load: WorkerLoad
    waiting_jobs: int = 0


class Announcer:
    """A worker's voice in the registry: synchronous."""

    def __init__(self, redis: redis.Redis, settings: Settings) -> None: ...

    def announce(self, card: WorkerCard) -> None:
        """Tell that this worker lives; call it every `heartbeat_s`."""
        raise NotImplementedError

    def withdraw(self, worker_id: str) -> None:
        """Tell that this worker goes."""
        raise NotImplementedError


class Registry:
    """The API's view of the fleet, refreshed every second."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None: ...

    async def start(self) -> None:
        """Refresh once (no error if Redis is away), then every second."""

    async def stop(self) -> None: ...

    async def refresh(self) -> None: ...

    def workers(self) -> tuple[WorkerCard, ...]:
        raise NotImplementedError

    def models(self) -> tuple[ModelCard, ...]:
        """Return the card of every queue that a live worker serves."""
        raise NotImplementedError

    def resolve(self, name: str) -> tuple[Served, ...]:
        """:raises UnknownModel, NoWorker, StoreUnavailable:"""  # noqa: D415
        raise NotImplementedError

    def pick(self, name: str) -> ModelCard:
        """Return the queue of a model with the shortest expected wait."""
        raise NotImplementedError
