"""The heads of a prompt: what is known of its beginnings before it is tokenised.

A worker that has computed a prompt with the same head holds it in its prefix cache, whatever its
template makes of the messages; jobs go to it if it is as free as others (docs/adr/0015). A head is a
number of whole messages, or a part of a text, after all that a template may put before them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from api.access.ledger import BYTES_A_TOKEN
from penstock.contract.job import ChatPrompt, Head, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from penstock.contract.job import Prompt

PIECE_CHARACTERS: Final = 1024
PIECE_TOKENS: Final = 256
MOST_LAST: Final = 12
"""The last heads of a prompt that are looked for: a turn of an agent adds a few messages."""
FIRST: Final = 2
"""The first heads of a prompt that are looked for and kept: system prompts."""
STRIDES: Final = (8, 64)
"""Of longer prompts also the last heads whose number is a multiple of these are looked for and kept."""
MOST_OF_A_STRIDE: Final = 4

_encoder = msgspec.json.Encoder(order="deterministic")


def heads_of(prompt: Prompt, *owner: str, session: Sequence[str] = ()) -> tuple[Head, ...]:
    """Return some heads of a prompt, the shortest first; none if it has no beginning to share.

    Prompts of different `owner` (a tenant whose cache is its own) share no head.
    `session` names a conversation, whose prompts are taken to share half of their tokens.
    """
    match prompt:
        case ChatPrompt():
            root = (prompt.tools, prompt.template_kwargs)
            pieces = ((piece, len(piece) // BYTES_A_TOKEN) for piece in _messages(prompt))
            first = len(_encoder.encode(prompt.tools)) // BYTES_A_TOKEN
        case TextPrompt():
            root, first = ("text", prompt.add_special_tokens), 0
            pieces = ((piece, len(piece) // BYTES_A_TOKEN) for piece in _texts(prompt.text))
        case TokenPrompt():
            root, first = ("tokens",), 0
            pieces = ((piece, PIECE_TOKENS) for piece in _tokens(prompt.token_ids))
        case _:
            return ()
    heads = _chosen(_chain(_encoder.encode((owner, root)), first, pieces))
    return _with_session(heads, (*owner, *session)) if session else heads


def _with_session(heads: tuple[Head, ...], names: Sequence[str]) -> tuple[Head, ...]:
    if not heads:
        return ()
    digest = blake2b(_encoder.encode(("session", names)), digest_size=16).hexdigest()
    session = Head(digest, (heads[-1].tokens + 1) // 2, kept=True)
    return tuple(sorted((session, *heads), key=lambda head: head.tokens))


def _messages(prompt: ChatPrompt) -> Iterator[bytes]:
    return (_encoder.encode(message) for message in prompt.messages)


def _texts(text: str) -> Iterator[bytes]:
    for start in range(0, len(text) - PIECE_CHARACTERS + 1, PIECE_CHARACTERS):
        yield text[start : start + PIECE_CHARACTERS].encode(errors="surrogatepass")


def _tokens(token_ids: tuple[int, ...]) -> Iterator[bytes]:
    for start in range(0, len(token_ids) - PIECE_TOKENS + 1, PIECE_TOKENS):
        yield _encoder.encode(token_ids[start : start + PIECE_TOKENS])


def _chain(root: bytes, tokens: int, pieces: Iterable[tuple[bytes, int]]) -> list[Head]:
    """Return the head after each piece; a digest covers all pieces before it."""
    digest = blake2b(root, digest_size=16).digest()
    heads: list[Head] = []
    for piece, piece_tokens in pieces:
        digest = blake2b(digest + piece, digest_size=16).digest()
        tokens += piece_tokens
        heads.append(Head(digest.hex(), tokens))
    return heads


def _chosen(heads: list[Head]) -> tuple[Head, ...]:
    """Return the heads that are looked for, with those to be kept marked."""
    count = len(heads)
    kept = {*range(1, min(FIRST, count) + 1), count}
    looked = {*range(max(count - MOST_LAST, 0) + 1, count + 1)}
    for stride in STRIDES:
        last = count - count % stride
        kept.add(last)
        looked.update(range(last, max(last - stride * MOST_OF_A_STRIDE, 0), -stride))
    return tuple(
        msgspec.structs.replace(heads[number - 1], kept=number in kept)
        for number in sorted(looked | kept)
        if number
    )
