"""Ids of a job's events, by which a client that lost its connection goes on where it was.

An id is the event's index and a digest of all tokens up to and with that event: `17-1a2b3c4d`. If
Redis has lost its memory and the answer was made again, the digest shows whether the client's part
is the same answer's. An index alone, as earlier versions wrote it, is taken without that check.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING
from zlib import crc32

from penstock.contract.events import Tokens
from penstock.errors import StoreUnavailable

if TYPE_CHECKING:
    from api.http.resumption import SeenEvent
    from penstock.contract.events import Event


class EventIds:
    """Follows one job's events from its first, and knows which of them its client has."""

    def __init__(self, seen: SeenEvent) -> None:
        self._seen = seen
        self._is_compared = seen.index < 0
        self._digest = 0
        self._index = -1

    def is_new(self, event: Event) -> bool:
        """Take the next event; return whether the client lacks it.

        :raises StoreUnavailable: the client has a part of another answer.
        """
        is_new = event.index > self._seen.index
        if is_new and not self._is_compared:
            self._compare()
        self._index = event.index
        if isinstance(event, Tokens):
            self._digest = crc32(array("i", event.token_ids).tobytes(), self._digest)
        elif not is_new:
            if event.index < self._seen.index:
                raise StoreUnavailable("The client has more of this answer than there is")
            self._compare()
        return is_new

    def _compare(self) -> None:
        self._is_compared = True
        if self._seen.digest is not None and self._seen.digest != self._digest:
            raise StoreUnavailable(
                "The job was lost with Redis's memory, and comes out differently now"
            )

    def line(self) -> bytes:
        """Return the SSE line with the id of the event that was taken last."""
        return b"id: %d-%08x\n" % (self._index, self._digest)
