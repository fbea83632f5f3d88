"""Renders chat templates within limits of time, memory and length, in a separate process."""

from __future__ import annotations

import json
import logging
import math
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

logger = logging.getLogger(__name__)

TEMPLATE_S: Final = 5.0
"""Time limit of a template for one chat."""
QUICK_S: Final = 0.25
"""Time limit in a thread that others wait for; the chat then goes to a more patient thread."""
TEMPLATE_BYTES: Final = 512 * 1024 * 1024
"""Memory limit of the rendering process."""
STARTING_S: Final = 20.0
"""Time limit of such a process's start, on a busy machine."""
LENGTH: Final = struct.Struct("<Q")
"""Length of the header before each frame, as in `template_process`."""
_PROGRAM: Final = Path(__file__).with_name("template_process.py")
_PIECE: Final = 1024 * 1024


class TemplateRefuses(Exception):
    """The template raised an error, or exceeded a limit."""


class TooManyCharacters(Exception):
    """The chat's text is longer than allowed; `length` is in characters."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length


class TakesLong(Exception):
    """The template takes longer than this thread may wait."""


class _Processes(threading.local):
    """Each thread's own process, so that no thread waits for another's chat."""

    process: TemplateProcess | None = None
    is_quick = False


_own = _Processes()


@contextmanager
def quickly() -> Generator[None]:
    """Limit templates in this thread to `QUICK_S`; a longer one raises `TakesLong`."""
    _own.is_quick = True
    try:
        yield
    finally:
        _own.is_quick = False


def warm() -> None:
    """Start this thread's process, so that its first chat does not wait for it."""
    _own.process = _own.process or TemplateProcess()
    _own.process.start()


def render(
    template: str,
    messages: list[dict[str, Any]],
    variables: dict[str, Any],
    *,
    continues: bool,
    most_characters: int | None,
) -> str:
    """Return the text of a chat.

    :raises TemplateRefuses: the template raises an error, or exceeds its limits of time or memory.
    :raises TooManyCharacters: the text is too long.
    :raises TakesLong: this thread may not wait so long.
    """
    request = {
        "template": template,
        "messages": messages,
        "variables": variables,
        "continues": continues,
        "most_characters": most_characters,
    }
    if _own.process is None:
        _own.process = TemplateProcess()
    try:
        limit_s = QUICK_S if _own.is_quick else TEMPLATE_S
        reply = _own.process.ask(json.dumps(request, default=str).encode(), limit_s)
    except TimeoutError:
        if _own.is_quick:
            raise TakesLong from None
        raise TemplateRefuses(f"it takes longer than {TEMPLATE_S:g} s") from None
    if "length" in reply:
        raise TooManyCharacters(reply["length"])
    if "error" in reply:
        limit = f" (over {TEMPLATE_BYTES} bytes)" if reply.get("bound") else ""
        raise TemplateRefuses(str(reply["error"]) + limit)
    return reply["text"]


class TemplateProcess:
    """A child process that renders; started at the first chat, and again after it was ended."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._end = lambda: None

    def ask(self, request: bytes, limit_s: float) -> dict[str, Any]:
        """Return the reply to a frame.

        :raises TimeoutError: none came in time; the process was ended.
        :raises TemplateRefuses: the process ended by itself, twice.
        """
        for is_last in (False, True):
            child = self._running()
            try:
                return json.loads(_exchange(child, request, time.monotonic() + limit_s))
            except TimeoutError:
                self._stop()
                raise
            except (OSError, EOFError, ValueError):  # it was killed, perhaps before this chat
                self._stop()
                if is_last:
                    raise TemplateRefuses("the process that renders it has ended") from None
        raise AssertionError

    def start(self) -> None:
        """Start the process; a failure shows at the first chat."""
        try:
            self._running()
        except (OSError, EOFError):
            self._stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            command = [
                sys.executable, "-P", str(_PROGRAM),
                str(TEMPLATE_BYTES), str(math.ceil(TEMPLATE_S)),
            ]  # fmt: skip
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._child = child
            self._end = weakref.finalize(self, _ended, child)
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
            # The start does not count as the template's time.
            hello: dict[str, Any] = {
                "template": "",
                "messages": [],
                "variables": {},
                "continues": False,
            }
            request = json.dumps({**hello, "most_characters": None}).encode()
            _exchange(child, request, time.monotonic() + STARTING_S)
        return self._child

    def _stop(self) -> None:
        self._end()
        self._child = None


def _ended(child: subprocess.Popen[bytes]) -> None:
    """End a process and close its pipes."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _exchange(child: subprocess.Popen[bytes], request: bytes, end_s: float) -> bytes:
    """Write a frame and return the one that answers it.

    :raises TimeoutError: it does not come before `end_s`, on the monotonic clock.
    :raises EOFError, OSError: the process has ended.
    """
    if child.stdin is None or child.stdout is None:
        raise EOFError
    source, target = child.stdout.fileno(), child.stdin.fileno()
    left = memoryview(LENGTH.pack(len(request)) + request)
    while left:
        _await(target, select.POLLOUT, end_s)
        left = left[os.write(target, left[:_PIECE]) :]
    (length,) = LENGTH.unpack(_read(source, LENGTH.size, end_s))
    return _read(source, length, end_s)


def _read(source: int, count: int, end_s: float) -> bytes:
    read = bytearray()
    while len(read) < count:
        _await(source, select.POLLIN, end_s)
        piece = os.read(source, min(_PIECE, count - len(read)))
        if not piece:
            raise EOFError
        read += piece
    return bytes(read)


def _await(handle: int, event: int, end_s: float) -> None:
    poll = select.poll()
    poll.register(handle, event)
    if not poll.poll(max(0.0, end_s - time.monotonic()) * 1000):
        raise TimeoutError
