"""The engine's thread and its inbox."""

from __future__ import annotations

import logging
import time
from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

Command = TypeVar("Command")

_TICK_S: Final = 0.5
"""How often an idle thread updates `last_turn_s`."""


class Runner(Generic[Command]):
    """Calls `turn(commands)` in one thread: again while it returns True, else when commands come.

    Any thread may `post`; the inbox keeps their order. An exception of `turn` ends the thread and
    stays in `failure`.
    """

    def __init__(self, turn: Callable[[list[Command]], bool], name: str) -> None:
        self._turn = turn
        self._inbox: deque[Command] = deque()
        self._changed = Condition()
        self._stopping = False
        self._more = False
        self._in_turn = False
        self._last_turn_s = time.monotonic()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread after its current turn.

        :raises TimeoutError: it is still in that turn after `timeout_s`.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._thread.name} did not end within {timeout_s} s")

    def post(self, *commands: Command) -> None:
        """Queue commands for the next turn, all for the same one."""
        with self._changed:
            self._inbox.extend(commands)
            self._changed.notify()

    def turn(self) -> bool:
        """Make one turn in the calling thread; only if `start` was not called."""
        self._more = self._turn(self._take())
        return self._more

    @property
    def posted(self) -> int:
        """How many commands no turn has taken yet."""
        return len(self._inbox)

    @property
    def busy(self) -> bool:
        """Whether a turn runs or is due, or commands are queued."""
        with self._changed:
            return self._in_turn or self._more or bool(self._inbox)

    @property
    def last_turn_s(self) -> float:
        """Monotonic time at which the last turn or idle tick ended."""
        return self._last_turn_s

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if not (self._more or self._inbox or self._stopping):
                        self._changed.wait(_TICK_S)
                    if self._stopping:
                        return
                    commands = self._take()
                    self._in_turn = self._more or bool(commands)
                if self._in_turn:
                    self._more = self._turn(commands)
                    self._in_turn = False
                self._last_turn_s = time.monotonic()
        except BaseException as error:
            self._in_turn = self._more = False
            self.failure = error
            logger.critical("%s has stopped", self._thread.name, exc_info=error)

    def _take(self) -> list[Command]:
        commands = list(self._inbox)
        self._inbox.clear()
        return commands
