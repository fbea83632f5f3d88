"""The live path back: one subscriber connection an API process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio

    from penstock.contract.events import Event
    from penstock.contract.utility import UtilityCall, UtilityReply
    from penstock.settings import Settings


class Replies:
    """Events of the jobs that this process's clients wait for, and replies to utility calls."""

    channel: str
    """The pub/sub channel of this process: what a `Job.reply` and a `UtilityCall.reply` hold."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None: ...

    @property
    def connected(self) -> bool:
        """Whether the subscription stands just now."""
        raise NotImplementedError

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def follow(
        self, queue: str, job_id: str, *, after: int = -1, tick_s: float
    ) -> AsyncIterator[Event | None]:
        """Yield a job's events in order, each once, until the terminal one; None a silent `tick_s`.

        :raises UnknownJob: while iterating: its keys are gone.
        """
        raise NotImplementedError

    async def call(self, call: UtilityCall, timeout_s: float) -> UtilityReply:
        """Push a utility call and wait for its reply.

        :raises NoWorker: nobody answered in time.
        :raises PenstockError: what the reply's error code names.
        """
        raise NotImplementedError
