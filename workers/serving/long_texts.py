"""Threads for long texts, so that no short text waits for a long one."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

import msgspec
from celery.utils.log import get_logger

from penstock.contract.job import TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.contract.job import Prompt
    from penstock.contract.structure import Structure

logger = get_logger(__name__)

LONG_BYTES: Final = 32 * 1024
"""A larger prompt, with its grammar, is prepared apart: it takes more than about 10 ms."""
HUGE_BYTES: Final = 512 * 1024
"""An even larger one takes a good part of a second or more; other long ones do not wait for it."""

_encoder = msgspec.json.Encoder()


def size_of(prompt: Prompt, structure: Structure | None = None) -> int:
    """Return the size that preparing depends on: bytes of JSON, characters or token ids."""
    form = 0 if structure is None else len(_encoder.encode(structure))
    match prompt:
        case TextPrompt(text):
            return form + len(text)
        case TokenPrompt(token_ids):
            return form + len(token_ids)
        case _:
            return form + len(_encoder.encode(prompt))


class LongTexts:
    """A thread for long texts and one for huge ones, each started when first needed.

    Tokenising and rendering release Python's lock, so steps go on.
    """

    def __init__(self, name: str, *, most_waiting: int | None = None) -> None:
        self._threads = tuple(
            _Thread(f"{name}-{number}", most_waiting=most_waiting) for number in range(2)
        )

    def put(self, work: Callable[[], None], size: int) -> bool:
        """Queue work on a text of `size` bytes; False if too much is waiting."""
        return self._threads[size > HUGE_BYTES].put(work)

    def close(self) -> None:
        """Begin no more work."""
        for thread in self._threads:
            thread.close()


class _Thread(threading.Thread):
    def __init__(self, name: str, *, most_waiting: int | None) -> None:
        super().__init__(name=name, daemon=True)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._most_waiting = most_waiting
        self._starting = threading.Lock()
        self._closing = False

    def put(self, work: Callable[[], None]) -> bool:
        if self._most_waiting is not None and self._inbox.qsize() >= self._most_waiting:
            return False
        self._inbox.put(work)
        with self._starting:
            if self.ident is None:
                self.start()
        return True

    def close(self) -> None:
        self._closing = True
        self._inbox.put(lambda: None)

    def run(self) -> None:
        while not self._closing:
            work = self._inbox.get()
            if self._closing:
                return
            try:
                work()
            except Exception:
                logger.exception("Work on a long text failed")
