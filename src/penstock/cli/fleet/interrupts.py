"""Signals of `penstock up`: the first one stops the fleet in order, the next one at once."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interrupts:
    """While entered, the first signal raises KeyboardInterrupt in the main thread.

    After `begin_stop` no signal raises; a further one makes `hurry` true.
    """

    hurried: bool = False
    _stopping: bool = False
    _before: dict[signal.Signals, Any] = field(default_factory=dict[signal.Signals, Any])

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin_stop(self) -> None:
        """Stop raising on signals."""
        self._stopping = True

    def hurry(self) -> bool:
        """Return whether another signal has arrived since `begin_stop`."""
        return self.hurried

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self.hurried = True
            return
        self._stopping = True
        raise KeyboardInterrupt
