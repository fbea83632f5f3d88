"""Which heads of prompts the prefix cache holds, for workers, which report them to each other."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MOST: Final = 1024


class HeldHeads:
    """Heads of prompts by name, with the block of the cache in which each ends.

    The engine's thread adds them, any thread asks for those that are gone. The oldest are dropped.
    """

    def __init__(self, holds: Callable[[bytes], bool]) -> None:
        """`holds` returns whether the cache has the block of a digest."""
        self._holds = holds
        self._lock = Lock()
        self._ends: OrderedDict[str, bytes | None] = OrderedDict()

    def add(self, head: str, end: bytes | None) -> None:
        """Note that a prompt was computed up to the block `end`; None: no block of it was."""
        with self._lock:
            earlier = self._ends.pop(head, None)
            # A request that ended before it computed a block leaves those of an earlier one.
            self._ends[head] = earlier if end is None else end
            while len(self._ends) > MOST:
                self._ends.popitem(last=False)

    def lost(self) -> list[str]:
        """Return the heads that the cache has dropped since the last call."""
        with self._lock:
            gone = [head for head, end in self._ends.items() if end is None or not self._holds(end)]
            for head in gone:
                del self._ends[head]
            return gone
