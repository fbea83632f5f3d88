"""Token ids to text, one token at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLACEMENT: Final = "\ufffd"

_LONGEST_CHARACTER: Final = 4
"""Tokens that one UTF-8 character can be spread over (a byte each)."""

_MOST_PENDING: Final = 8
"""Tokens after which a replacement character can no longer be a character in the making."""

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
    """Remembers what windows of one or two tokens decode to: nearly all windows are of that kind.

    One of an engine; the engine's thread owns it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    def decode(self, window: tuple[int, ...]) -> str:
        """Return the text of a window."""
        if len(window) > 2:  # noqa: PLR2004 - longer ones hardly ever come again
            return self._tokenizer.decode(window)
        text = self._known.get(window)
        if text is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            text = self._known[window] = self._tokenizer.decode(window)
        return text


class Detokenizer:
    """The text of one growing sequence, in pieces that never split a character.

    What a token adds is the text of a short window with it less the text of the window without it
    (the offset technique of text-generation-inference and vLLM): the window's first tokens were
    told already and give the context that decides, say, on a leading space. `context` is the end
    of the prompt, where the text goes on from it. The pieces depend on the tokens alone.
    """

    def __init__(self, cache: DecodeCache, context: Sequence[int] = ()) -> None:
        self._cache = cache
        self._told = tuple(context)
        self._told_length = len(cache.decode(self._told)) if self._told else 0
        self._pending: tuple[int, ...] = ()

    def push(self, token_id: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        pending = (*self._pending, token_id)
        text = self._cache.decode(self._told + pending)
        if text.endswith(REPLACEMENT):
            if len(pending) >= _MOST_PENDING:
                return self._give_up(pending, text)
            self._pending = pending
            return ""
        if len(text) <= self._told_length:
            # Tokens without text (special ones) are kept as context, but not without end.
            self._pending = pending[-_LONGEST_CHARACTER:]
            return ""
        piece = text[self._told_length :]
        self._told, self._pending = pending, ()
        self._told_length = len(self._cache.decode(pending))
        return piece

    def flush(self) -> str:
        """Return what was held back, as it stands (half a character is U+FFFD)."""
        window = self._told + self._pending
        return self._cache.decode(window)[self._told_length :] if window else ""

    def _give_up(self, pending: tuple[int, ...], text: str) -> str:
        """Tell the bytes that are no UTF-8, all but the last, which may begin a character."""
        window = pending[-_LONGEST_CHARACTER:]
        context = self._cache.decode(window)
        held = 1 if context.endswith(REPLACEMENT) else 0
        piece = text[self._told_length : len(text) - held]
        self._told, self._pending = window, ()
        self._told_length = len(context) - held
        return piece
