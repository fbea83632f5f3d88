"""An object for each Redis: the home Redis, and those of groups of queues.

A job lives in the Redis of its queue alone; accounts, limits, files, stored responses, usage and
FastChat's workers are at home (docs/adr/0017).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import redis.asyncio

from penstock.clock import FleetClock, clock
from penstock.redis_addresses import HOME
from penstock.transport.store.connection import connect_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from penstock.settings import Settings

T = TypeVar("T")
U = TypeVar("U")


def _at_home(queue: str) -> str:
    del queue
    return HOME


@dataclass(frozen=True)
class Grouped(Generic[T]):
    """`home`, and one for each group by its name; `group_of` returns the name for a queue."""

    home: T
    groups: Mapping[str, T]
    group_of: Callable[[str], str] = _at_home

    def of(self, queue: str) -> T:
        """Return the one that has a queue's jobs."""
        return self.groups.get(self.group_of(queue), self.home)

    def all(self) -> tuple[T, ...]:
        """Return all of them, `home` first."""
        return (self.home, *self.groups.values())

    def map(self, make: Callable[[T], U]) -> Grouped[U]:
        """Return what `make` returns for each of them."""
        groups = {name: make(one) for name, one in self.groups.items()}
        return Grouped(make(self.home), groups, self.group_of)

    def split(self, queues: Iterable[str]) -> list[tuple[T, list[str]]]:
        """Return those that have any of these queues, each with its queues."""
        by_group: dict[str, list[str]] = {}
        for queue in queues:
            by_group.setdefault(self.group_of(queue), []).append(queue)
        return [(self.of(names[0]), names) for names in by_group.values()]


@dataclass(frozen=True)
class Stores(Grouped[redis.asyncio.Redis]):
    """A client for each Redis, of the running event loop."""

    @cached_property
    def clocks(self) -> Grouped[FleetClock]:
        """Return the clock of each Redis; that of the home Redis is the process's."""
        return Grouped(clock, {name: FleetClock() for name in self.groups}, self.group_of)


def connect_groups(settings: Settings) -> Stores:
    """Return a client for each Redis, of the running event loop."""
    groups = {name: connect_async(settings.in_group(name)) for name in settings.redis_groups}
    return Stores(connect_async(settings), groups, settings.group_of)


def stores_of(given: redis.asyncio.Redis | Stores) -> Stores:
    """Return a single client as the only one."""
    return given if isinstance(given, Stores) else Stores(given, {})


async def close(stores: Stores) -> None:
    """Close all clients."""
    for client in stores.all():
        await client.aclose()
