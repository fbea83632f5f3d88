"""What one client has been given of an answer, to compare with what is made of it again."""

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
    """The digest and length of a text that grows."""

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


class Given:
    """The tokens that a client has, from the index `begins_at` on, and a digest of their text.

    What is made again may come in other pieces: drafts are taken in other numbers. A piece that ends
    past the client's place is cut there.
    """

    __slots__ = ("_again", "_ids", "_owed", "_text", "begins_at")

    def __init__(self, begins_at: int = 0) -> None:
        self.begins_at = begins_at
        self._ids = array("i")
        self._text = _Text()
        self._again: _Text | None = None
        self._owed = ""

    @property
    def until(self) -> int:
        """The index of the token that the client has not got yet."""
        return self.begins_at + len(self._ids)

    def __bool__(self) -> bool:
        """Whether the client has anything that we have seen."""
        return bool(self._ids)

    def add(self, event: Tokens | Finished) -> Tokens | Finished:
        """Note that the client gets an event, and return it as it is to be given out."""
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
        """Begin to compare, from the first token."""
        self._again = _Text()
        self._owed = ""

    def compare(self, event: Tokens | Finished) -> Tokens | None:
        """Compare an event that begins before `until`; return what the client lacks of it.

        A repeat out of turn (nothing is `read_again`) is compared by its tokens alone.

        :raises StoreUnavailable: it is another answer.
        """
        ids: Sequence[int] = event.token_ids if isinstance(event, Tokens) else ()
        end = event.index + len(ids)
        if ids and end <= self.begins_at:
            return None  # from before our time
        first = max(event.index, self.begins_at)
        known = self._ids[first - self.begins_at : end - self.begins_at]
        common = ids[first - event.index : self.until - event.index]
        if not isinstance(event, Tokens) or not ids or array("i", common) != known:
            raise _differs()
        if first > event.index and end > self.until:
            raise _differs()  # it cannot be told which part of its text the client has
        self._compare_text(event.text)
        return self._rest(event) if end > self.until else None

    def _compare_text(self, text: str) -> None:
        if self._again is not None:
            room = max(self._text.length - self._again.length, 0)
            self._again.add(text[:room])
            self._owed += text[room:]

    def _rest(self, event: Tokens) -> Tokens:
        """Return the part of an event that is past the client's place; its text is owed."""
        if self._again is None:
            raise _differs()
        cut = self.until - event.index
        whole = len(event.logprobs) == len(event.token_ids)
        return msgspec.structs.replace(
            event,
            index=self.until,
            token_ids=event.token_ids[cut:],
            text="",
            logprobs=event.logprobs[cut:] if whole else (),
            prompt_tokens=None,
        )

    def _check_text(self) -> None:
        """Fail unless the text that was made again is the client's, as far as it goes."""
        if self._again is not None and not self._again.is_same(self._text):
            raise _differs()
        self._again = None


def _differs() -> StoreUnavailable:
    return StoreUnavailable("The job was lost with Redis's memory, and comes out differently now")
