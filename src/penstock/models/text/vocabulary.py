"""A tokenizer's vocabulary in the form that llguidance needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

_BRACKETS: Final = (("<", ">"), ("[", "]"))
_LEAD: Final = "\x02"
"""A character that no vocabulary merges with another."""


def markers(tokenizer_json: str) -> dict[str, int]:
    """Return the ids of markers (`<tool_call>`): tokens that no text of a grammar produces.

    llguidance recognises `<...>` by its form alone, so every such token is listed here.
    """
    return {
        token["content"]: int(token["id"])
        for token in _added(json.loads(tokenizer_json))
        if token["special"] or looks_special(token["content"])
    }


def read(
    library: Any, tokenizer_json: str, *, vocab_size: int, eos_token_ids: Iterable[int]
) -> Any:
    """Return llguidance's tokenizer for a `tokenizer.json`.

    llguidance reads each token's bytes from the file. But it would also force the literal text
    "<tool_call>" in a grammar to be the marker's token, which the grammar then refuses. Therefore
    we tokenise text ourselves, with all markers special and none of them produced.
    """
    document = cast("dict[str, Any]", json.loads(tokenizer_json))
    for token in _added(document):
        token["special"] = token["special"] or looks_special(token["content"])
    document["truncation"] = document["padding"] = None
    text = json.dumps(document)
    endings = sorted(eos_token_ids)
    own = library.LLTokenizer(text, n_vocab=vocab_size, eos_token=endings, slices=[])
    wrapped = library.TokenizerWrapper(_Words(own, text, endings[0]))
    return library.LLTokenizer(wrapped, n_vocab=vocab_size, eos_token=endings)


class _Words:
    """The interface that llguidance's wrapper expects of a tokenizer."""

    def __init__(self, own: Any, text: str, eos_token_id: int) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - heavy, and needed only here

        self._tokenizer: Any = cast("Any", Tokenizer).from_str(text)
        self._tokenizer.encode_special_tokens = True
        self.eos_token_id = eos_token_id
        self.bos_token_id = None
        count = int(own.vocab_size)
        self.special_token_ids = [i for i in range(count) if own.is_special_token(i)]
        self.tokens: list[bytes] = [own.decode_bytes([i]) for i in range(count)]
        # SentencePiece puts a space before a text, but a grammar's text has none. After this
        # character, a text is tokenised without it.
        first = b"".join(self.tokens[token] for token in self._encode("{"))
        self._lead: list[int] = [] if first == b"{" else self._encode(_LEAD)

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("text, not bytes")  # the wrapper tests which of them is accepted
        if self._lead:
            ids, count = self._encode(_LEAD + text), len(self._lead)
            if ids[:count] == self._lead:
                return ids[count:]
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _added(document: dict[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", document.get("added_tokens") or [])


def looks_special(content: str) -> bool:
    """Return whether a token looks like a marker: `<...>` or `[...]`."""
    return any(content.startswith(left) and content.endswith(right) for left, right in _BRACKETS)
