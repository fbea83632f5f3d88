"""Whether the store is new, or may have just lost its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.transport import keys
from penstock.transport.fleet.announcer import HEARTBEATS_OF_LIFE

if TYPE_CHECKING:
    from penstock.settings import Settings

LIFE_S: Final = 86_400
MARGIN_S: Final = 5.0
"""Allowance for reconnecting, on top of the heartbeats that a live worker may miss."""


class StoreAge:
    """When the store began, according to a mark in it. Owned by one event loop.

    A store that is new, was emptied or came back without its file has no mark. The first process
    that misses the mark sets it. For some heartbeats from then on, no model can be called unknown:
    workers are still announcing themselves.
    """

    def __init__(self, settings: Settings) -> None:
        self._settling_ms = int((settings.heartbeat_s * HEARTBEATS_OF_LIFE + MARGIN_S) * 1000)
        self._began_ms: int | None = None
        self._looked_ms = 0
        self._doubted_ms = 0

    def ask(self, pipeline: Any) -> None:
        """Add the command that reads the mark to a pipeline."""
        pipeline.get(keys.STORE)

    def hear(self, mark: Any, now_ms: int, pipeline: Any) -> None:
        """Take the answer; renew the mark, or set it, by a pipeline."""
        self._looked_ms = now_ms
        self._began_ms = int(mark) if isinstance(mark, bytes) and mark.isdigit() else None
        if self._began_ms is None:
            pipeline.set(keys.STORE, now_ms, nx=mark is None, ex=LIFE_S)
        else:
            pipeline.expire(keys.STORE, LIFE_S)

    def doubt(self) -> None:
        """Record that the store has lost a part at the last look, though its mark is there."""
        self._doubted_ms = self._looked_ms

    def settles_in_s(self) -> float:
        """Return for how many seconds workers may still be announcing themselves."""
        began_ms = self._looked_ms if self._began_ms is None else self._began_ms
        began_ms = max(began_ms, self._doubted_ms)
        return max(began_ms + self._settling_ms - self._looked_ms, 0) / 1000
