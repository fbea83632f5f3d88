"""The store of KV blocks beside a model's memory: written behind, read ahead."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final

from penstock.engine.reuse.read_ahead import Loaded, NotRead, ReadAhead, RemoteBlocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.reuse.block_files import BlockFiles

__all__ = ["KVStore", "Loaded", "NotRead", "RemoteBlocks", "StoreCounts"]

logger = logging.getLogger(__name__)

MOST_UNWRITTEN_BYTES: Final = 256 * 2**20
"""Blocks that wait to be written; further ones are dropped."""
MOST_KNOWN: Final = 262_144
"""Digests of blocks that are known to be in the store, and are not written again."""
_PAUSE_S: Final = 10.0
"""How long nothing is written after an error."""
_LINE_EVERY_S: Final = 60.0
_MEMORY: Final = 0.2
"""Weight of a new measurement of a read rate."""


@dataclass(slots=True)
class StoreCounts:
    """What a store has done so far; blocks, bytes, and seconds of reading.

    `remote` ones came from other hosts, and are not among those that were read.
    """

    read_blocks: int = 0
    read_bytes: int = 0
    read_s: float = 0.0
    written_blocks: int = 0
    written_bytes: int = 0
    dropped_blocks: int = 0
    errors: int = 0
    remote_blocks: int = 0
    remote_bytes: int = 0
    remote_s: float = 0.0


class KVStore:
    """Reads and writes blocks in threads of its own.

    Any thread may call its methods; none but `wait` waits, for as long as it is given. A
    store that cannot be read or written is one that has nothing.
    """

    def __init__(self, files: BlockFiles, block_bytes: int = 0) -> None:
        """No block, and no state, has more than `block_bytes`."""
        self.block_bytes = block_bytes
        self._files = files
        self._remote: RemoteBlocks | None = None
        self._changed = Condition()
        self._unwritten: deque[tuple[bytes, bytes]] = deque()
        self._unwritten_bytes = 0
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._closing = False
        self._writing = False
        self._paused_until_s = self._line_s = float("-inf")
        self._byte_s = self._remote_byte_s = 0.0
        self.counts = StoreCounts()
        self._ahead = ReadAhead(self)
        self._writer = Thread(target=self._write_all, name="kv-store-writer", daemon=True)

    @property
    def identity(self) -> bytes:
        """Names the model, its format and version, and all else that decides what a block means."""
        return self._files.identity

    def ask(self, remote: RemoteBlocks) -> None:
        """Ask other hosts for what this one lacks; to be called before `start`."""
        self._remote = remote

    def start(self) -> None:
        """Start the threads."""
        self._writer.start()
        self._ahead.start(self._remote)

    def is_alive(self) -> bool:
        """Return whether all threads run."""
        return self._writer.is_alive() and self._ahead.is_alive()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, for at most `timeout_s`, and end the threads."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while (self._unwritten or self._writing) and time.monotonic() < end_s:
                self._changed.wait(max(0.0, min(end_s - time.monotonic(), 0.1)))
            self._closing = True
            self._unwritten.clear()
            self._changed.notify_all()
        self._ahead.close()

    # -- writing

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

    def keep(self, name: bytes, content: bytes) -> None:
        """Write what came from another host, some time later, if there is room."""
        if self.wants(name, len(content)):
            self.save(name, content)

    def _note(self, digest: bytes) -> None:
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

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

    # -- reading

    def expect(
        self, key: int, digests: Sequence[bytes], states: Sequence[bytes] = (), *, ask: bool = True
    ) -> None:
        """Begin to read these blocks of a sequence, in order, up to the first that is missing.

        With `states`, the names of the states after each block: the blocks before the last state that
        is there, then this state; nothing if none is there. With `ask`, other hosts are asked for
        what is missing.
        """
        self._ahead.expect(key, digests, states, ask=ask)

    def take(self, key: int) -> Loaded | NotRead:
        """Return what was read next for a sequence, with its name."""
        return self._ahead.take(key)

    def wait(self, keys: Sequence[int], wait_s: float) -> None:
        """Return when a block of one of these sequences has been read, or after `wait_s`."""
        self._ahead.wait(keys, wait_s)

    def forget(self, key: int) -> None:
        """Read no more for a sequence."""
        self._ahead.forget(key)

    def read_s(self, size: int) -> float:
        """Return the time (s) in which so many bytes are read, as measured; 0 if unknown."""
        return self._byte_s * size

    def remote_s(self, size: int) -> float:
        """Return the same of other hosts."""
        return self._remote_byte_s * size

    def remote_failures(self) -> int:
        """Return how many calls to other hosts have failed."""
        return 0 if self._remote is None else self._remote.failures()

    def newest(self, most: int) -> list[bytes]:
        """Return the digests of the blocks that were used last, the latest first."""
        try:
            return self._files.newest(most)
        except OSError as error:
            self._failed("read", error)
            return []

    def has_any(self, names: Sequence[bytes]) -> int | None:
        """Return the place of the last of these names that is there; None if none is."""
        try:
            places = range(len(names) - 1, -1, -1)
            return next((place for place in places if self._files.has(names[place])), None)
        except OSError as error:
            self._failed("read", error)
            return None

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
            self._byte_s = _learnt(self._byte_s, len(content), taken_s)
        return content

    def count_remote(self, size: int, taken_s: float) -> None:
        """Count a block that came from another host, and learn its rate."""
        with self._changed:
            counts = self.counts
            counts.remote_blocks += 1
            counts.remote_bytes += size
            counts.remote_s += taken_s
            self._remote_byte_s = _learnt(self._remote_byte_s, size, taken_s)

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


def _learnt(byte_s: float, size: int, taken_s: float) -> float:
    """Return the seconds a byte after another measurement."""
    return byte_s + (taken_s / max(size, 1) - byte_s) * (_MEMORY if byte_s else 1.0)
