"""Token ids to text, one token at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLACEMENT: Final = "\ufffd"

_LONGEST_CHARACTER: Final = 4
"""Tokens that one UTF-8 character can be spread over (a byte each)."""

_MOST_PENDING: Final = 8
"""Tokens after which a replacement character cannot be an incomplete character any more."""

_MOST_REMEMBERED: Final = 1 << 17


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer. `decode` skips special tokens."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end a text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD."""
        ...

    def token_text(self, token_id: int) -> str:
        """Return the text of one token alone, special or not."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token alone, which may be a part of a character."""
        ...


class DecodeCache:
    """Caches the text of windows of one or two tokens: nearly all windows are that short.

    An engine has one; its thread owns it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    def decode(self, window: tuple[int, ...]) -> str:
        """Return the text of a window."""
        if len(window) > 2:  # noqa: PLR2004 - longer ones hardly ever repeat
            return self._tokenizer.decode(window)
        text = self._known.get(window)
        if text is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            text = self._known[window] = self._tokenizer.decode(window)
        return text


class Detokenizer:
    """The text of one growing sequence, in pieces that never split a character.

    A token adds the text of a short window with it, less the text of the window without it (the
    offset technique of text-generation-inference and vLLM): the window's first tokens were emitted
    before and give the context, which decides for example on a leading space. `context` is the end
    of the prompt if the text continues it. The pieces depend only on the tokens.
    """

    def __init__(self, cache: DecodeCache, context: Sequence[int] = ()) -> None:
        self._cache = cache
        self._emitted = tuple(context)
        self._emitted_length = len(cache.decode(self._emitted)) if self._emitted else 0
        self._pending: tuple[int, ...] = ()

    def push(self, token_id: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        pending = (*self._pending, token_id)
        text = self._cache.decode(self._emitted + pending)
        if text.endswith(REPLACEMENT):
            if len(pending) >= _MOST_PENDING:
                return self._give_up(pending, text)
            self._pending = pending
            return ""
        if len(text) <= self._emitted_length:
            # Tokens without text (special ones) are kept as context, but not without end.
            self._pending = pending[-_LONGEST_CHARACTER:]
            return ""
        piece = text[self._emitted_length :]
        self._emitted, self._pending = pending, ()
        self._emitted_length = len(self._cache.decode(pending))
        return piece

    def flush(self) -> str:
        """Return the text held back, as it is (half a character is U+FFFD)."""
        window = self._emitted + self._pending
        return self._cache.decode(window)[self._emitted_length :] if window else ""

    def _give_up(self, pending: tuple[int, ...], text: str) -> str:
        """Emit the bytes that are not UTF-8, all but the last, which may begin a character."""
        window = pending[-_LONGEST_CHARACTER:]
        context = self._cache.decode(window)
        held_back = 1 if context.endswith(REPLACEMENT) else 0
        piece = text[self._emitted_length : len(text) - held_back]
        self._emitted, self._pending = window, ()
        self._emitted_length = len(context) - held_back
        return piece
