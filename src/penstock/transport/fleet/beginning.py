"""Whether the store is as young as if it had just lost its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.transport import keys
from penstock.transport.fleet.announcer import HEARTBEATS_OF_LIFE

if TYPE_CHECKING:
    from penstock.settings import Settings

LIFE_S: Final = 86_400
MARGIN_S: Final = 5.0
"""For connections that are made again, besides the heartbeats that a live worker may be late by."""


class Beginning:
    """When the store began, as a mark in it says. Owned by one event loop.

    A store that was emptied, or is back without its file, has no mark; nor has one that is new. Who
    misses it sets it, and for some heartbeats from then on nobody can say that a model is unknown:
    workers are announcing themselves.
    """

    def __init__(self, settings: Settings) -> None:
        self._settling_ms = int((settings.heartbeat_s * HEARTBEATS_OF_LIFE + MARGIN_S) * 1000)
        self._began_ms: int | None = None
        self._looked_ms = 0

    def ask(self, pipeline: Any) -> None:
        """Add the question for the mark to a pipeline."""
        pipeline.get(keys.STORE)

    def hear(self, mark: Any, now_ms: int, pipeline: Any) -> None:
        """Take the answer, and keep the mark alive, or set it, by a pipeline."""
        self._looked_ms = now_ms
        self._began_ms = int(mark) if isinstance(mark, bytes) and mark.isdigit() else None
        if self._began_ms is None:
            pipeline.set(keys.STORE, now_ms, nx=mark is None, ex=LIFE_S)
        else:
            pipeline.expire(keys.STORE, LIFE_S)

    def settles_in_s(self) -> float:
        """Return for how long from the last look workers may still be announcing themselves."""
        began_ms = self._looked_ms if self._began_ms is None else self._began_ms
        return max(began_ms + self._settling_ms - self._looked_ms, 0) / 1000
