"""Blocks that waiting sequences need, read ahead: from the disk, and what it lacks from other hosts."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_UNREAD_BYTES: Final = 256 * 2**20
"""Blocks that were read and not taken yet."""


class NotRead(Enum):
    """Why a block was not returned."""

    MISSING = "the store does not have it"
    PENDING = "it is still being read"


class Loaded(NamedTuple):
    """A block or a state that was read, with its name; `is_remote`: from another host."""

    name: bytes
    content: bytes
    is_remote: bool


class RemoteSource(Protocol):
    """Another host that has the first of the names that were looked for."""

    @property
    def count(self) -> int:
        """How many of the first names it has."""
        ...

    def read(self, names: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the contents of names, in order; it ends early if one of them cannot be had."""
        ...


class RemoteBlocks(Protocol):
    """The stores of other hosts. Its methods return within seconds, and raise no error."""

    def holder(self, names: Sequence[bytes]) -> RemoteSource | None:
        """Return the host that has the most of the first names; None if none has the first."""
        ...

    def last(self, names: Sequence[bytes]) -> int | None:
        """Return the place of the last name that some host has; None if none has any."""
        ...

    def failures(self) -> int:
        """Return how many calls have failed so far."""
        ...


class Disk(Protocol):
    """The store of this host, as blocks are read from it."""

    def read(self, digest: bytes) -> bytes | None:
        """Return a block now, or None."""
        ...

    def has_any(self, names: Sequence[bytes]) -> int | None:
        """Return the place of the last name that is there; None if none is."""
        ...

    def keep(self, name: bytes, content: bytes) -> None:
        """Write what came from another host, some time later, if there is room."""
        ...

    def count_remote(self, size: int, taken_s: float) -> None:
        """Count what came from other hosts, and in how many seconds."""
        ...


@dataclass(slots=True)
class _Request:
    """`states` are the names of the states after each of the `digests`, if the model has states.

    `may_ask`: other hosts may be asked for what the disk lacks; `is_asked`: they are.
    """

    digests: deque[bytes]
    states: list[bytes]
    may_ask: bool
    is_asked: bool = False
    ready: deque[Loaded] = field(default_factory=deque[Loaded])
    done: bool = False


class ReadAhead:
    """Reads blocks in a thread, and others' in a second one, so that no network delays the disk.

    Any thread may call its methods; none but `wait` waits, for as long as it is given.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._remote: RemoteBlocks | None = None
        self._changed = Condition()
        self._requests: OrderedDict[int, _Request] = OrderedDict()
        self._unread_bytes = 0
        self._closing = False
        self._threads: list[Thread] = []

    def start(self, remote: RemoteBlocks | None = None) -> None:
        """Start the threads; `remote` is asked for what the disk lacks."""
        self._remote = remote
        loops = [self._read_all] if remote is None else [self._read_all, self._ask_all]
        for loop in loops:
            thread = Thread(target=loop, name=f"kv-store{loop.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def is_alive(self) -> bool:
        """Return whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Drop all requests, and end the threads."""
        with self._changed:
            self._closing = True
            self._requests.clear()
            self._changed.notify_all()

    def expect(
        self, key: int, digests: Sequence[bytes], states: Sequence[bytes], *, ask: bool
    ) -> None:
        """Begin to read; see `KVStore.expect`."""
        with self._changed:
            self._drop(key)
            may_ask = ask and self._remote is not None
            self._requests[key] = _Request(deque(digests), list(states), may_ask)
            self._changed.notify_all()

    def take(self, key: int) -> Loaded | NotRead:
        """Return what was read next for a sequence."""
        with self._changed:
            request = self._requests.get(key)
            if request is not None and request.ready:
                loaded = request.ready.popleft()
                self._unread_bytes -= len(loaded.content)
                self._changed.notify_all()
                return loaded
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

    def _drop(self, key: int) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            self._unread_bytes -= sum(len(loaded.content) for loaded in request.ready)

    # -- from the disk

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
            content = self._disk.read(digest)
            with self._changed:
                if content is not None:
                    request.done = not request.digests
                    self._hand_over(request, Loaded(digest, content, is_remote=False))
                elif request.may_ask:
                    request.digests.appendleft(digest)
                    request.is_asked = True
                else:
                    request.done = True
                self._changed.notify_all()

    def _next_request(self) -> tuple[_Request, bytes] | None:
        if self._unread_bytes > MOST_UNREAD_BYTES:
            return None
        for request in self._requests.values():
            if request.done or request.is_asked:
                continue
            if request.states:
                return request, b""
            if request.digests:
                return request, request.digests.popleft()
            request.done = True
        return None

    def _choose_state(self, request: _Request) -> None:
        """Have the blocks before the last state that is there read, and then this state."""
        last = self._disk.has_any(request.states)
        with self._changed:
            if last is not None:
                _end_at(request, last)
            elif request.may_ask:
                request.is_asked = True
            else:
                request.done = True
            self._changed.notify_all()

    def _hand_over(self, request: _Request, loaded: Loaded) -> bool:
        """Give a request what was read; False if nobody waits for it any more."""
        if not any(one is request for one in self._requests.values()):
            return False
        request.ready.append(loaded)
        self._unread_bytes += len(loaded.content)
        return True

    # -- from other hosts

    def _ask_all(self) -> None:
        request: _Request | None = None
        while True:
            with self._changed:
                while not self._closing and (request := self._next_asked()) is None:
                    self._changed.wait()
                if self._closing or request is None:
                    return
                names, states = list(request.digests), request.states
            self._ask(request, names, states)
            with self._changed:
                # What they lack may be on the disk again, after a gap.
                request.is_asked = request.may_ask = False
                request.done = request.done or bool(request.states) or not request.digests
                self._changed.notify_all()

    def _next_asked(self) -> _Request | None:
        return next((one for one in self._requests.values() if one.is_asked and not one.done), None)

    def _ask(self, request: _Request, names: list[bytes], states: list[bytes]) -> None:
        """Read from the host that has the most of a request's blocks, up to the first that it lacks."""
        assert self._remote is not None  # noqa: S101 - else no request may ask
        if states:
            last = self._remote.last(states)
            if last is None:
                return
            with self._changed:
                _end_at(request, last)
                names = list(request.digests)
        began_s = time.monotonic()
        source = self._remote.holder(names)
        if source is None or (states and source.count < len(names)):
            return  # without its state, nothing is of use
        contents = source.read(names[: source.count])
        for name, content in zip(names, contents, strict=False):
            self._disk.count_remote(len(content), time.monotonic() - began_s)
            if not self._hand_over_when_there_is_room(request, name, content):
                return
            self._disk.keep(name, content)
            began_s = time.monotonic()

    def _hand_over_when_there_is_room(self, request: _Request, name: bytes, content: bytes) -> bool:
        with self._changed:
            while self._unread_bytes > MOST_UNREAD_BYTES and not self._closing:
                self._changed.wait()
            if not self._hand_over(request, Loaded(name, content, is_remote=True)):
                return False
            request.digests.popleft()
            self._changed.notify_all()
            return not self._closing


def _end_at(request: _Request, last: int) -> None:
    """Have a request end with its state number `last`, after the blocks before it."""
    state = request.states[last]
    request.digests = deque([*list(request.digests)[: last + 1], state])
    request.states = []
