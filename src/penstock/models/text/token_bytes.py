"""A single token of a vocabulary: its bytes, and the spaces that it begins with."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

_ONE_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece vocabularies write a byte."""
_PRINTABLE: Final = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))
"""Bytes that byte-level vocabularies write as the character of the same number."""


_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece vocabularies write a space."""


def with_spaces(piece: str | bytes | None, text: str) -> str:
    """Return a token's text with its leading spaces: SentencePiece drops one at a text's beginning."""
    if not isinstance(piece, str) or not piece.startswith(_SPACE):
        return text
    return " " * (len(piece) - len(piece.lstrip(_SPACE))) + text.lstrip(" ")


def of_piece(piece: str | bytes, text: str) -> bytes:
    """Return the bytes of a vocabulary's entry; `text` is its decoded form."""
    if isinstance(piece, bytes):
        return piece
    if match := _ONE_BYTE.fullmatch(piece):
        return bytes.fromhex(match[1])
    alphabet = _byte_of_character()
    if all(character in alphabet for character in piece):
        return bytes(alphabet[character] for character in piece)
    return text.encode()


def as_characters(token: bytes) -> str:
    """Return a token in a byte-level vocabulary's notation."""
    alphabet = _character_of_byte()
    return "".join(alphabet[byte] for byte in token)


@cache
def _character_of_byte() -> dict[int, str]:
    return {byte: character for character, byte in _byte_of_character().items()}


@cache
def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet (Radford et al. 2019): other bytes follow in order from U+0100."""
    printable = [byte for some in _PRINTABLE for byte in some]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}
