"""A worker's answer: tokens, then exactly one terminal event.

Events of a job are numbered by the tokens that they carry: an event's `index` is the index of its
first token, the next event's is `index + len(token_ids)`. A gap or a repeat is therefore visible,
and the journal's entry id is `1-<index>`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended; the values are OpenAI's."""

    STOP = "stop"
    LENGTH = "length"


UNKNOWN_LOGPROB = 1.0
"""Placeholder for a missing log probability: that of a prompt's first token."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token, its text and its natural log probability.

    `part` holds the bytes of a token that is a part of a character; its text is then U+FFFD.
    """

    token_id: int
    text: str
    logprob: float
    part: bytes = b""


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The chosen token of one position and the `logprobs` best ones there, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Token counts by the worker. `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Tokens(msgspec.Struct, frozen=True, tag="tokens", omit_defaults=True):
    """Newly decoded tokens of one step and the text that they complete.

    `text` may be empty (half a UTF-8 character, the beginning of a possible stop string).
    `prompt_tokens` is set only on the event with index 0. If the job asks for prompt log
    probabilities, that event's `logprobs` begin with those of the prompt's tokens.
    """

    job_id: str
    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()
    prompt_tokens: int | None = None


class Finished(msgspec.Struct, frozen=True, tag="finished", omit_defaults=True):
    """The sequence ended normally. `text` is the remaining text that was withheld until now.

    `stop` is the stop string or token id that ended it, if one did. `logprobs` are the prompt's, if
    they were asked for and no token followed. `embedding` is the prompt's, if it was asked for:
    base64 of float32, little-endian.
    """

    job_id: str
    index: int
    reason: FinishReason
    usage: Usage
    text: str = ""
    stop: str | int | None = None
    logprobs: tuple[PositionLogprobs, ...] = ()
    embedding: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    """The job ended without a complete answer. `code` names a leaf of `penstock.errors`.

    `param` is the part of the job at fault, if there is one: a field of `Sampling`, `prompt`, or a
    name that clients know.
    """

    job_id: str
    index: int
    code: str
    message: str
    param: str = ""


Event = Tokens | Finished | Failed

TERMINAL_EVENTS = (Finished, Failed)
"""The types of terminal events, for `isinstance`."""
