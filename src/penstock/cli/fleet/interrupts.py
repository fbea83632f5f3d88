"""Ctrl-C, SIGTERM and SIGHUP of `penstock up`: the first ends the fleet in order, the next at once."""

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

    Once `begin_stop` was called none raises any more; one that comes then makes `hurry` true.
    """

    hurried: bool = False
    _stopping: bool = False
    _before: dict[signal.Signals, Any] = field(default_factory=dict[signal.Signals, Any])

    def __enter__(self) -> Self:
        for one in _SIGNALS:
            self._before[one] = signal.signal(one, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def begin_stop(self) -> None:
        """From now on signals do not raise."""
        self._stopping = True

    def hurry(self) -> bool:
        """Whether somebody asked again while the fleet was ending."""
        return self.hurried

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self.hurried = True
            return
        self._stopping = True
        raise KeyboardInterrupt
