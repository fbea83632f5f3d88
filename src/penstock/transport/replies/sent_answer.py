"""What one client has had of an answer, to compare it with a second generation of it."""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING

import msgspec

from penstock.contract.events import Finished, Tokens
from penstock.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIGEST_BYTES = 16


class _Text:
    """Digest and length of a growing text."""

    __slots__ = ("_digest", "length")

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self.length = 0

    def add(self, text: str) -> None:
        if text:
            self._digest.update(text.encode("utf-8", "surrogatepass"))
            self.length += len(text)

    def is_same(self, other: _Text) -> bool:
        return self.length == other.length and self._digest.digest() == other._digest.digest()


class SentAnswer:
    """The tokens that a client has, and a digest of their text.

    A second generation may be cut into other pieces, since drafts vary. A piece that extends past
    the client's position is cut there.
    """

    __slots__ = ("_again", "_ids", "_owed", "_text")

    def __init__(self) -> None:
        self._ids = array("i")
        self._text = _Text()
        self._again: _Text | None = None
        self._owed = ""

    @property
    def until(self) -> int:
        """The index of the first token that the client does not have."""
        return len(self._ids)

    def __bool__(self) -> bool:
        """Whether the client has anything that this process has seen."""
        return bool(self._ids)

    def add(self, event: Tokens | Finished) -> Tokens | Finished:
        """Record that the client gets an event, and return the event as it is to be sent."""
        if self._again is not None:
            self._check_text()
        if self._owed:
            event = msgspec.structs.replace(event, text=self._owed + event.text)
            self._owed = ""
        self._text.add(event.text)
        if isinstance(event, Tokens):
            self._ids.extend(event.token_ids)
        return event

    def read_again(self) -> None:
        """Start to compare, from the first token."""
        self._again = _Text()
        self._owed = ""

    @property
    def reads_again(self) -> bool:
        """Whether a second generation is being compared."""
        return self._again is not None

    def compare(self, event: Tokens | Finished, *, repeated: bool = False) -> Tokens | None:
        """Compare an event that begins before `until`, and return the part that the client lacks.

        An event that is `repeated` since `read_again`, or that comes without it, is compared by its
        tokens alone.

        :raises StoreUnavailable: the answer differs.
        """
        ids: Sequence[int] = event.token_ids if isinstance(event, Tokens) else ()
        end = event.index + len(ids)
        known = self._ids[event.index : end]
        common = ids[: self.until - event.index]
        if not isinstance(event, Tokens) or not ids or array("i", common) != known:
            raise _differs()
        if not repeated:
            self._compare_text(event.text)
        return self._rest(event) if end > self.until else None

    def _compare_text(self, text: str) -> None:
        if self._again is not None:
            room = max(self._text.length - self._again.length, 0)
            self._again.add(text[:room])
            self._owed += text[room:]

    def _rest(self, event: Tokens) -> Tokens:
        """Return the part of an event after the client's position; its text is computed later."""
        if self._again is None:
            raise _differs()
        start = self.until - event.index
        has_logprobs = len(event.logprobs) == len(event.token_ids)
        return msgspec.structs.replace(
            event,
            index=self.until,
            token_ids=event.token_ids[start:],
            text="",
            logprobs=event.logprobs[start:] if has_logprobs else (),
            prompt_tokens=None,
        )

    def _check_text(self) -> None:
        """Raise an error unless the regenerated text equals the client's, as far as it goes."""
        if self._again is not None and not self._again.is_same(self._text):
            raise _differs()
        self._again = None


def _differs() -> StoreUnavailable:
    return StoreUnavailable("The job was lost with Redis's memory, and is answered differently now")
