"""Tokenizer calls: counting, tokenising, rendering. They need a model's tokenizer, but no slot.

Loading an adapter goes the same way.

They have their own list next to the queue, so that they never wait for a running answer; replies
come on the caller's reply channel.
"""

from __future__ import annotations

import msgspec

from penstock.contract.adapter import AdapterCard
from penstock.contract.job import ChatPrompt, Prompt


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """Request the token ids of a prompt."""

    prompt: Prompt


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """Request the text of token ids; with `each`, also of each id, in `TokenizerReply.texts`."""

    token_ids: tuple[int, ...]
    each: bool = False


class Render(msgspec.Struct, frozen=True, tag="render"):
    """Request the text that a chat template makes of a chat."""

    prompt: ChatPrompt


class LoadAdapter(msgspec.Struct, frozen=True, tag="load_adapter"):
    """Request to load an adapter of a folder on the worker; `TokenizerReply.adapter` has its card."""

    name: str
    path: str


class TokenizerCall(msgspec.Struct, frozen=True):
    """One call; the answer is a `TokenizerReply` with the same id on channel `reply`."""

    id: str
    queue: str
    reply: str
    call: Tokenize | Detokenize | Render | LoadAdapter


class TokenizerReply(msgspec.Struct, frozen=True, tag="utility"):
    """The answer to a call: either `error_code` or the other fields are set."""

    id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    texts: tuple[str, ...] = ()
    adapter: AdapterCard | None = None
    error_code: str = ""
    error_message: str = ""
