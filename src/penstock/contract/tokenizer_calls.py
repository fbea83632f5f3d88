"""Small calls that need a model's tokenizer but no slot: counting, tokenising, rendering.

They go through a list of their own beside the queue, so that they never wait for a running answer,
and come back on the caller's reply channel.
"""

from __future__ import annotations

import msgspec

from penstock.contract.job import ChatPrompt, Prompt


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """Token ids of a prompt."""

    prompt: Prompt


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """Text of token ids; with `each`, also of every single one, as `TokenizerReply.texts`."""

    token_ids: tuple[int, ...]
    each: bool = False


class Render(msgspec.Struct, frozen=True, tag="render"):
    """The text that the model would see for a chat."""

    prompt: ChatPrompt


class TokenizerCall(msgspec.Struct, frozen=True):
    """One call; the answer is a `TokenizerReply` with the same id on channel `reply`."""

    id: str
    queue: str
    reply: str
    call: Tokenize | Detokenize | Render


class TokenizerReply(msgspec.Struct, frozen=True, tag="utility"):
    """Exactly one of `error_code` and the other fields is set."""

    id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    texts: tuple[str, ...] = ()
    error_code: str = ""
    error_message: str = ""
