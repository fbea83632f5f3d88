"""What a worker knows of a model that it loads on demand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from penstock.clock import clock
from penstock.contract.worker import ModelState

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.contract.worker import ModelStatus

FIRST_PAUSE_S: Final = 30.0
"""After a failed load the next one is tried no sooner; each further failure doubles it."""
LONGEST_PAUSE_S: Final = 600.0


@dataclass(slots=True)
class OnDemand:
    """A model's place in a worker's memory. Written by the thread of `Residents` alone.

    `load` fills a `ServedQueue` with the loaded model's parts. `needed_bytes` and `free_bytes` are what it
    takes and what its device has. `keep_alive_s`: unloaded when idle for so long; None: only for
    another model. Times are monotonic.
    """

    load: Callable[[Any], None]
    needed_bytes: int
    free_bytes: Callable[[], int]
    keep_alive_s: float | None = None
    is_pinned: bool = False
    status: ModelStatus = "on_demand"
    loads: int = 0
    load_s: float = 0.0
    loaded_s: float = 0.0
    used_s: float = 0.0
    unloaded_s: float = float("-inf")
    failures: int = 0
    retry_s: float = float("-inf")
    error: str = ""

    def loaded(self, load_s: float) -> None:
        """Note that it is in memory, after `load_s`."""
        self.status = "loaded"
        self.loads += 1
        self.load_s = load_s
        self.loaded_s = self.used_s = time.monotonic()
        self.failures, self.error = 0, ""

    def unloaded(self) -> None:
        """Note that it is not in memory any more."""
        self.status = "on_demand"
        self.unloaded_s = time.monotonic()

    def failed(self, error: str) -> None:
        """Note why it could not be loaded; it is tried again after a while."""
        self.status, self.error = "failed", error
        pause_s = FIRST_PAUSE_S * 2 ** min(self.failures, 8)
        self.failures += 1
        self.retry_s = time.monotonic() + min(pause_s, LONGEST_PAUSE_S)

    def state(self) -> ModelState:
        """Return what to announce of it; any thread."""
        unload_ms = 0
        if self.status == "loaded" and self.keep_alive_s is not None:
            left_s = max(self.used_s + self.keep_alive_s - time.monotonic(), 0.0)
            unload_ms = clock.now_ms() + round(left_s * 1000)
        return ModelState(self.status, round(self.load_s, 3), self.loads, unload_ms, self.error)
