"""Manages the places of a model's recurrent states: those of running sequences, and kept ones.

A state is what the layers of a hybrid model know of all tokens so far, in a fixed size. It cannot
be cut: a sequence can start after a shared prefix only if the state at that point was kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.engine.model import StatefulModel


class StatePool:
    """Places of states: each running sequence has one, the others keep states for reuse.

    Kept states are found by the digest of the blocks before them; the least recently used is
    evicted first. Copies are made at once. Owned by the engine's thread.
    """

    def __init__(self, model: StatefulModel, count: int) -> None:
        self._model = model
        self._free = list(range(count - 1, -1, -1))
        self._kept: OrderedDict[bytes, int] = OrderedDict()
        self.count = count

    @property
    def kept(self) -> int:
        """The number of states that are kept for reuse."""
        return len(self._kept)

    @property
    def available(self) -> int:
        """The number of sequences that can still get a place."""
        return len(self._free) + len(self._kept)

    def take(self, digest: bytes | None = None) -> int:
        """Return a place for a starting sequence, with the state kept for `digest`.

        A kept state may be evicted for it.

        :raises KeyError: all places are taken, or no state is kept for `digest`.
        """
        if digest is None:
            if not self._free:
                self._free.append(self._kept.popitem(last=False)[1])
            return self._free.pop()
        self._kept.move_to_end(digest)
        if not self._free and len(self._kept) == 1:
            return self._kept.pop(digest)
        slot = self.take()
        self._model.copy_state(self._kept[digest], slot)
        return slot

    def save(self, place: int, *, spare: int = 0) -> int | None:
        """Return another place with a copy of a sequence's state.

        None if no more than `spare` are available, for sequences that are about to start.
        """
        if self.available <= spare:
            return None
        copy = self.take()
        self._model.copy_state(place, copy)
        return copy

    def restore(self, copy: int, place: int) -> None:
        """Copy a saved state back."""
        self._model.copy_state(copy, place)

    def release(self, place: int) -> None:
        """Take back the place of a sequence that has stopped running, or of a saved state."""
        self._free.append(place)

    def keep(self, digest: bytes, place: int) -> None:
        """Keep a copy of a sequence's state after the blocks of this digest, if there is room."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
        elif self.available:
            copy = self.take()
            self._model.copy_state(place, copy)
            self._kept[digest] = copy

    def forget(self, digest: bytes) -> None:
        """Drop the state of this digest, if it is kept."""
        slot = self._kept.pop(digest, None)
        if slot is not None:
            self._free.append(slot)

    def place_of(self, digest: bytes) -> int | None:
        """Return the place of the state that is kept for a digest; None if none is."""
        return self._kept.get(digest)

    def holds(self, digest: bytes) -> bool:
        """Return whether the state after the blocks of this digest is kept."""
        return digest in self._kept
