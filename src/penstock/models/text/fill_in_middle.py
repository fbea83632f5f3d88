"""Fill in the middle: the tokens that show a code model what comes before and after a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.text.encoding import Encoder

_FORMATS: Final = (
    # Before, after, and the middle, which follows.
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite Code
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek Coder
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama
)  # fmt: skip
_CODESTRAL: Final = ("[SUFFIX]", "[PREFIX]")
"""After first, then before; the middle follows at once."""
_ENDINGS: Final = (
    "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>",
    "<file_sep>", "\u2581<EOT>",
)  # fmt: skip
_DUMMY_PREFIX: Final = "\u2581"
_ANCHOR: Final = "\n"


@dataclass(frozen=True, slots=True)
class FillIn:
    """Encodes such prompts for one tokenizer; `endings` are tokens that end the middle."""

    encoder: Encoder
    opening: tuple[int, ...]
    before: int
    after: int
    middle: int | None
    endings: tuple[int, ...]
    is_joined: bool

    def encode(self, before: str, after: str) -> list[int]:
        """Return the token ids of a prompt."""
        first, second = self._ids(before), self._inner(after)
        if self.middle is None:
            return [*self.opening, self.after, *second, self.before, *first]
        return [*self.opening, self.before, *first, self.after, *second, self.middle]

    def _ids(self, text: str) -> list[int]:
        return self.encoder.encode(text, add_special_tokens=False)

    def _inner(self, text: str) -> list[int]:
        """Encode text that follows a token, without SentencePiece's own space before it."""
        if not self.is_joined:
            return self._ids(text)
        anchor = self._ids(_ANCHOR)
        both = self._ids(_ANCHOR + text)
        return both[len(anchor) :] if both[: len(anchor)] == anchor else self._ids(text)


def of_tokenizer(tokenizer: Any, encoder: Encoder) -> FillIn | None:
    """Return a tokenizer's `FillIn`; None if it has no tokens for that."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    bos = tokenizer.bos_token_id
    empty: Sequence[int] = tokenizer.encode("", add_special_tokens=True)
    opening = (int(bos),) if bos is not None and bos in empty else ()
    endings = tuple(vocabulary[token] for token in _ENDINGS if token in vocabulary)
    for before, after, middle in _FORMATS:
        if before in vocabulary and after in vocabulary and middle in vocabulary:
            return FillIn(
                encoder,
                opening,
                vocabulary[before],
                vocabulary[after],
                vocabulary[middle],
                endings,
                is_joined=before.startswith(_DUMMY_PREFIX),
            )
    after, before = _CODESTRAL
    if before in vocabulary and after in vocabulary:
        ids = (vocabulary[before], vocabulary[after])
        return FillIn(encoder, opening, *ids, middle=None, endings=endings, is_joined=False)
    return None
