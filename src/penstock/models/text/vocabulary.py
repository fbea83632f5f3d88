"""A tokenizer's vocabulary as llguidance wants it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

_BRACKETS: Final = (("<", ">"), ("[", "]"))
_LEAD: Final = "\x02"
"""A character that no vocabulary joins with another."""


def markers(tokenizer_json: str) -> dict[str, int]:
    """Return the ids of tokens that are markers (`<tool_call>`): no text of a grammar makes them.

    llguidance takes `<...>` for such by its look alone, so every one is counted here.
    """
    return {
        token["content"]: int(token["id"])
        for token in _added(json.loads(tokenizer_json))
        if token["special"] or looks_special(token["content"])
    }


def read(
    library: Any, tokenizer_json: str, *, vocab_size: int, eos_token_ids: Iterable[int]
) -> Any:
    """Return llguidance's tokenizer of a `tokenizer.json`.

    Its own reading of the file gives each token's bytes; but with it the literal text
    "<tool_call>" in a grammar would be forced to be the marker's token, which the grammar then
    refuses. So text is tokenised by us, with every marker taken for special and none of them made.
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
    """What llguidance's wrapper asks of a tokenizer."""

    def __init__(self, own: Any, text: str, eos_token_id: int) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - heavy, and only here

        self._tokenizer: Any = cast("Any", Tokenizer).from_str(text)
        self._tokenizer.encode_special_tokens = True
        self.eos_token_id = eos_token_id
        self.bos_token_id = None
        count = int(own.vocab_size)
        self.special_token_ids = [i for i in range(count) if own.is_special_token(i)]
        self.tokens: list[bytes] = [own.decode_bytes([i]) for i in range(count)]
        # SentencePiece puts a space before a text; what a grammar forces has none. Behind this
        # character a text is cut without it.
        first = b"".join(self.tokens[token] for token in self._encode("{"))
        self._lead: list[int] = [] if first == b"{" else self._encode(_LEAD)

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("text, not bytes")  # the wrapper tries which of them it may give
        if self._lead:
            found, count = self._encode(_LEAD + text), len(self._lead)
            if found[:count] == self._lead:
                return found[count:]
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _added(document: dict[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", document.get("added_tokens") or [])


def looks_special(content: str) -> bool:
    """Whether a token is a marker by its look: `<...>` or `[...]`."""
    return any(content.startswith(left) and content.endswith(right) for left, right in _BRACKETS)
