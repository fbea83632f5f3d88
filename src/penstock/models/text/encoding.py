"""Text to token ids, within a limit on characters, from several threads at once.

Tokenizers of the `tokenizers` library are called directly, not through Transformers, whose calls
change a tokenizer's state for each truncation and hold the GIL during a single text: seconds for
megabytes. Here nothing changes after the start, and other threads continue meanwhile.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from penstock.errors import ContextOverflow

LEAST_CHARACTERS: Final = 4_096
"""A text up to this length is tokenised for any context, so that the error can state its tokens."""


class Encoder:
    """Encodes text with one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Any) -> None:
        """Read the vocabulary, in a tenth of a second for a large one."""
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._plain = threading.Lock()
        """Held during calls of a tokenizer written in Python, which may have state."""
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._encode_batch: Any = getattr(
                self._backend, "encode_batch_fast", self._backend.encode_batch
            )
        self.longest_token_chars: int = max(map(len, tokenizer.get_vocab()), default=1)
        """An upper bound of one token's characters."""
        self.most_tokens: int | None = None
        """The most tokens of a prompt; set once the model's context is known."""

    @property
    def most_characters(self) -> int | None:
        """The most characters of a prompt; None if its tokens are not limited."""
        if self.most_tokens is None:
            return None
        return max(self.most_tokens * self.longest_token_chars, LEAST_CHARACTERS)

    def check(self, length: int) -> None:
        """Check that a text of `length` characters may fit.

        :raises ContextOverflow: it cannot, whatever its tokens are.
        """
        most = self.most_characters
        if most is not None and length > most:
            raise ContextOverflow(
                f"the prompt has {length} characters; the context of {self.most_tokens} tokens has "
                f"room for {most} at most",
                param="prompt",
            )

    def encode(self, text: str, *, add_special_tokens: bool, most: int | None = None) -> list[int]:
        """Return the token ids of a text, or the first `most` of them if it may be truncated.

        :raises ContextOverflow: it must not be truncated, and has too many characters.
        :raises UnicodeError, TypeError: the text has lone surrogates.
        """
        if most is None:
            self.check(len(text))
        else:
            text = self._shortened(text, most)
        if self._backend is None:
            cut = {} if most is None else {"truncation": True, "max_length": most}
            with self._plain:
                ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens, **cut)
            return [int(token) for token in ids]
        encoding = self._encodings(text, special=add_special_tokens and most is None)[0]
        if most is None:
            return encoding.ids
        added = self._backend.num_special_tokens_to_add(False) if add_special_tokens else 0
        self._cut(encoding, max(0, most - added))
        return self._backend.post_process(encoding, None, add_special_tokens).ids

    def encode_pair(
        self, first: str, second: str, *, most: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Return two texts' token ids, and for each id its text, 0 or 1; the longer text is cut first.

        :raises ContextOverflow, UnicodeError, TypeError: as `encode`.
        """
        if most is None:
            self.check(len(first) + len(second))
        else:
            first, second = self._shortened(first, most), self._shortened(second, most)
        if self._backend is None:
            with self._plain:
                both = self._tokenizer(
                    first, second, truncation=most is not None, max_length=most,
                    return_token_type_ids=True,
                )  # fmt: skip
            return list(both["input_ids"]), list(both["token_type_ids"])
        encoding_a, encoding_b = self._encodings(first, second, special=False)
        if most is not None:
            room = max(0, most - self._backend.num_special_tokens_to_add(True))
            for encoding, length in zip(
                (encoding_a, encoding_b),
                _fitting(len(encoding_a), len(encoding_b), room),
                strict=True,
            ):
                self._cut(encoding, length)
        both = self._backend.post_process(encoding_a, encoding_b, True)
        return both.ids, both.type_ids

    def _encodings(self, *texts: str, special: bool) -> list[Any]:
        return self._encode_batch(list(texts), add_special_tokens=special)

    def _cut(self, encoding: Any, length: int) -> None:
        if len(encoding) > length:
            encoding.truncate(length, direction=self._side)

    @property
    def _side(self) -> str:
        return str(getattr(self._tokenizer, "truncation_side", "right"))

    def _shortened(self, text: str, most: int) -> str:
        """Return a part of a text that certainly has `most` tokens, plus one character more."""
        length = max((most + 1) * self.longest_token_chars, LEAST_CHARACTERS)
        return text[-length:] if self._side == "left" else text[:length]


def _fitting(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens to keep of each of two texts: the longer one is cut first."""
    if first + second <= room:
        return first, second
    shorter = min(first, second)
    if 2 * shorter <= room:
        return (first, room - first) if first <= second else (room - second, second)
    half = room // 2
    return (half, room - half) if first <= second else (room - half, half)
