"""The store of KV blocks beside a model's memory: written behind, read ahead."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.reuse.block_files import BlockFiles

logger = logging.getLogger(__name__)

MOST_UNWRITTEN_BYTES: Final = 256 * 2**20
"""Blocks that wait to be written; further ones are dropped."""
MOST_UNREAD_BYTES: Final = 256 * 2**20
"""Blocks that were read and not taken yet."""
MOST_KNOWN: Final = 262_144
"""Digests of blocks that are known to be in the store, and are not written again."""
_PAUSE_S: Final = 10.0
"""How long nothing is written after an error."""
_LINE_EVERY_S: Final = 60.0
_MEMORY: Final = 0.2
"""Weight of a new measurement of the read rate."""


class NotRead(Enum):
    """Why a block was not returned."""

    MISSING = "the store does not have it"
    PENDING = "it is still being read"


@dataclass(slots=True)
class _Request:
    """`states` are the names of the states after each of the `digests`, if the model has states."""

    digests: deque[bytes]
    states: list[bytes] = field(default_factory=list[bytes])
    ready: deque[tuple[bytes, bytes]] = field(default_factory=deque[tuple[bytes, bytes]])
    done: bool = False


@dataclass(slots=True)
class StoreCounts:
    """What a store has done so far; blocks, bytes, and seconds of reading."""

    read_blocks: int = 0
    read_bytes: int = 0
    read_s: float = 0.0
    written_blocks: int = 0
    written_bytes: int = 0
    dropped_blocks: int = 0
    errors: int = 0


class KVStore:
    """Reads and writes blocks in two threads of its own.

    Any thread may call its methods; none but `wait` waits, for as long as it is given. A
    store that cannot be read or written is one that has nothing.
    """

    def __init__(self, files: BlockFiles) -> None:
        self._files = files
        self._changed = Condition()
        self._unwritten: deque[tuple[bytes, bytes]] = deque()
        self._unwritten_bytes = self._unread_bytes = 0
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._requests: OrderedDict[int, _Request] = OrderedDict()
        self._closing = False
        self._writing = False
        self._paused_until_s = self._line_s = float("-inf")
        self._byte_s = 0.0
        self.counts = StoreCounts()
        self._threads = [
            Thread(target=self._write_all, name="kv-store-writer", daemon=True),
            Thread(target=self._read_all, name="kv-store-reader", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, for at most `timeout_s`, and end the threads."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while (self._unwritten or self._writing) and time.monotonic() < end_s:
                self._changed.wait(max(0.0, min(end_s - time.monotonic(), 0.1)))
            self._closing = True
            self._unwritten.clear()
            self._requests.clear()
            self._changed.notify_all()

    def wants(self, digest: bytes, size: int) -> bool:
        """Return whether a block of so many bytes should be saved: it is new, and there is room."""
        with self._changed:
            if digest in self._known:
                self._known.move_to_end(digest)
                return False
            if self._unwritten_bytes + size > MOST_UNWRITTEN_BYTES:
                self.counts.dropped_blocks += 1
                return False
            return time.monotonic() >= self._paused_until_s

    def save(self, digest: bytes, content: bytes) -> None:
        """Write a block some time later."""
        with self._changed:
            self._note(digest)
            self._unwritten.append((digest, content))
            self._unwritten_bytes += len(content)
            self._changed.notify_all()

    def expect(self, key: int, digests: Sequence[bytes], states: Sequence[bytes] = ()) -> None:
        """Begin to read these blocks of a sequence, in order, up to the first that is missing.

        With `states`, the names of the states after each block: the blocks before the last state that
        is there, then this state; nothing if none is there.
        """
        with self._changed:
            self._drop(key)
            self._requests[key] = _Request(deque(digests), list(states))
            self._changed.notify_all()

    def take(self, key: int) -> tuple[bytes, bytes] | NotRead:
        """Return what was read next for a sequence, with its name."""
        with self._changed:
            request = self._requests.get(key)
            if request is not None and request.ready:
                name, content = request.ready.popleft()
                self._unread_bytes -= len(content)
                self._changed.notify_all()
                return name, content
            is_over = request is None or request.done or self._closing
            return NotRead.MISSING if is_over else NotRead.PENDING

    def wait(self, keys: Sequence[int], wait_s: float) -> None:
        """Return when a block of one of these sequences has been read, or after `wait_s`."""
        end_s = time.monotonic() + wait_s
        with self._changed:
            while (left_s := end_s - time.monotonic()) > 0 and not self._closing:
                requests = [self._requests.get(key) for key in keys]
                if any(one is None or one.ready or one.done for one in requests):
                    return
                self._changed.wait(left_s)

    def forget(self, key: int) -> None:
        """Read no more for a sequence."""
        with self._changed:
            self._drop(key)
            self._changed.notify_all()

    def read_s(self, size: int) -> float:
        """Return the time (s) in which so many bytes are read, as measured; 0 if unknown."""
        return self._byte_s * size

    def newest(self, most: int) -> list[bytes]:
        """Return the digests of the blocks that were used last, the latest first."""
        try:
            return self._files.newest(most)
        except OSError as error:
            self._failed("read", error)
            return []

    def read(self, digest: bytes) -> bytes | None:
        """Return a block now, or None."""
        started_s = time.perf_counter()
        try:
            content = self._files.read(digest)
        except (OSError, MemoryError) as error:
            self._failed("read", error)
            return None
        taken_s = time.perf_counter() - started_s
        with self._changed:
            if content is None:
                self._known.pop(digest, None)
                return None
            self._note(digest)
            counts = self.counts
            counts.read_blocks += 1
            counts.read_bytes += len(content)
            counts.read_s += taken_s
            rate = taken_s / max(len(content), 1)
            self._byte_s += (rate - self._byte_s) * (_MEMORY if self._byte_s else 1.0)
        return content

    def _note(self, digest: bytes) -> None:
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def _drop(self, key: int) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            self._unread_bytes -= sum(len(content) for _, content in request.ready)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._unwritten and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                digest, content = self._unwritten.popleft()
                self._unwritten_bytes -= len(content)
                self._writing = True
            self._write(digest, content)
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _write(self, digest: bytes, content: bytes) -> None:
        if time.monotonic() < self._paused_until_s:
            self._unknown(digest)
            return
        try:
            if not self._files.has(digest):
                self._files.write(digest, content)
                self.counts.written_blocks += 1
                self.counts.written_bytes += len(content)
        except (OSError, MemoryError) as error:
            self._unknown(digest)
            self._failed("written", error)

    def _unknown(self, digest: bytes) -> None:
        with self._changed:
            self._known.pop(digest, None)
            self.counts.dropped_blocks += 1

    def _read_all(self) -> None:
        found: tuple[_Request, bytes] | None = None
        while True:
            with self._changed:
                while not self._closing and (found := self._next_request()) is None:
                    self._changed.wait()
                if self._closing or found is None:
                    return
                request, digest = found
            if request.states:
                self._choose_state(request)
                continue
            content = self.read(digest)
            with self._changed:
                if content is None or not request.digests:
                    request.done = True
                if content is not None and any(r is request for r in self._requests.values()):
                    request.ready.append((digest, content))
                    self._unread_bytes += len(content)
                self._changed.notify_all()

    def _next_request(self) -> tuple[_Request, bytes] | None:
        if self._unread_bytes > MOST_UNREAD_BYTES:
            return None
        for request in self._requests.values():
            if not request.done and request.states:
                return request, b""
            if not request.done and request.digests:
                return request, request.digests.popleft()
            request.done = True
        return None

    def _choose_state(self, request: _Request) -> None:
        """Have the blocks before the last state that is there read, and then this state."""
        states, request.states = request.states, []
        try:
            places = range(len(states) - 1, -1, -1)
            last = next((place for place in places if self._files.has(states[place])), None)
        except OSError as error:
            self._failed("read", error)
            last = None
        with self._changed:
            request.done = last is None
            if last is not None:
                request.digests = deque([*list(request.digests)[: last + 1], states[last]])
            self._changed.notify_all()

    def _failed(self, what: str, error: BaseException) -> None:
        now_s = time.monotonic()
        with self._changed:
            self.counts.errors += 1
            if what == "written":
                self._paused_until_s = now_s + _PAUSE_S
            is_silent = now_s - self._line_s < _LINE_EVERY_S
            self._line_s = self._line_s if is_silent else now_s
        if not is_silent:
            logger.warning("The store of the KV cache cannot be %s: %s", what, error)
