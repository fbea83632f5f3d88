"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock.contract.events import UNKNOWN_LOGPROB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.events import PositionLogprobs, TokenLogprob

LOWEST: Final = -9999.0
"""JSON has no minus infinity; OpenAI writes this for what is all but impossible."""


class LogprobsShape(Protocol):
    """One choice's log probabilities; called with each event's positions, in order."""

    def __call__(self, positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        """Return the object of these positions."""
        ...


class ChatLogprobs:
    """The shape of /v1/chat/completions."""

    def __call__(self, positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        """Return `{"content": [...]}`."""
        return {"content": entries(positions), "refusal": None}


def entries(positions: Sequence[PositionLogprobs]) -> list[dict[str, Any]]:
    """Return each position's chosen token with its alternatives; /v1/responses shows them so too."""
    return [
        {**_entry(position.chosen), "top_logprobs": [_entry(token) for token in position.top]}
        for position in positions
    ]


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": max(token.logprob, LOWEST),
        "bytes": list(token.part or token.text.encode()),
    }


class CompletionLogprobs:
    """The format of /v1/completions; `text_offset` continues from event to event."""

    def __init__(self) -> None:
        self._offset = 0

    def __call__(self, positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        """Return parallel lists of tokens, log probabilities, alternatives and offsets."""
        offsets: list[int] = []
        for position in positions:
            offsets.append(self._offset)
            self._offset += len(position.chosen.text)
        return {
            "tokens": [_name(position.chosen) for position in positions],
            "token_logprobs": [_logprob(position.chosen) for position in positions],
            "top_logprobs": [_alternatives(position) for position in positions],
            "text_offset": offsets,
        }


def _logprob(token: TokenLogprob) -> float | None:
    return None if token.logprob == UNKNOWN_LOGPROB else max(token.logprob, LOWEST)


def _alternatives(position: PositionLogprobs) -> dict[str, float] | None:
    """Return the best tokens, and the chosen one if it is not among them, as OpenAI does."""
    if position.chosen.logprob == UNKNOWN_LOGPROB:
        return None
    best: dict[str, float] = {}
    for token in (*position.top, position.chosen):  # of two with one text the better one stays
        best.setdefault(_name(token), max(token.logprob, LOWEST))
    return best


def _name(token: TokenLogprob) -> str:
    """Return a token's text, or OpenAI's name of a part of a character: such texts are all alike."""
    if not token.part:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.part)
