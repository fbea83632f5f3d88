"""What the parts of a worker ask of the worker, and the worker of the process around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.contract.worker import WorkerCard
    from penstock.engine.events import AttemptEvent
    from workers.serving.claimed_jobs import ClaimedJob, Ticket
    from workers.serving.served_queue import ServedQueue


class Hooks(Protocol):
    """What a worker does for its threads; each method may be called from any of them."""

    @property
    def resting(self) -> bool:
        """Whether no job is to be claimed for now; running ones go on."""
        ...

    def card(self) -> WorkerCard:
        """Describe the worker as of now."""
        ...

    def take(self, ticket: Ticket) -> None:
        """Look for jobs for the free slots; never blocks."""

    def publish(self, events: list[AttemptEvent]) -> None:
        """Write events, in their order; blocks while many steps wait to be written."""

    def end(self, claimed: ClaimedJob) -> None:
        """Forget a job whose terminal event is stored."""

    def lose(self, claimed: ClaimedJob) -> None:
        """Give up an attempt whose job is over or another worker's; nothing more is written."""

    def look_for_returned(self, served: ServedQueue) -> None:
        """Claim jobs of a dead worker beyond the slots, if all of these are taken."""

    def rest(self, wanted: bool) -> None:
        """Claim no job for now, or again."""

    def consume(self, queue: str, wanted: bool) -> None:
        """Take a queue's bells, or not for now."""

    def opened(self, served: ServedQueue) -> None:
        """Follow whether a queue is open, and announce how its model stands."""

    def claiming_ended(self) -> None:
        """Note that no further job will be claimed."""

    def engine_broke(self, served: ServedQueue, reason: str) -> None:
        """End the worker: one of its engines is beyond help."""


class Delivery(Protocol):
    """What a worker asks of the process that delivers its bells; any thread may call it."""

    def request_stop(self) -> None:
        """Begin to stop the process."""

    def wake(self) -> None:
        """Let the main loop see that something has changed."""

    def rest_changed(self) -> None:
        """Follow `Worker.resting`, which has changed."""

    def consume(self, queue: str, wanted: bool) -> None:
        """Take a queue's bells, or not for now."""

    def opened(self, queue: str, is_open: bool) -> None:
        """Take a queue's bells only while it is open."""


class Watcher(Protocol):
    """Follows attempts by their events: metrics or spans."""

    def see(self, events: list[AttemptEvent]) -> None:
        """Note events and their time; called before they are published, by several threads."""

    def drop(self, claimed: ClaimedJob) -> None:
        """Note that an attempt was given up."""

    def close(self) -> None:
        """Report what is open, and stop."""
