"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock.contract.events import UNKNOWN_LOGPROB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.events import PositionLogprobs, TokenLogprob

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
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
        content = [
            {**_entry(position.chosen), "top_logprobs": [_entry(token) for token in position.top]}
            for position in positions
        ]
        return {"content": content, "refusal": None}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    # A token that is part of a character has no text of its own, and we do not know its bytes.
    known = REPLACEMENT not in token.text
    return {
        "token": token.text,
        "logprob": max(token.logprob, LOWEST),
        "bytes": list(token.text.encode()) if known else None,
    }


class CompletionLogprobs:
    """The shape of /v1/completions; `text_offset` goes on from event to event."""

    def __init__(self) -> None:
        self._offset = 0

    def __call__(self, positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        """Return parallel lists of tokens, log probabilities, alternatives and offsets."""
        offsets: list[int] = []
        for position in positions:
            offsets.append(self._offset)
            self._offset += len(position.chosen.text)
        return {
            "tokens": [position.chosen.text for position in positions],
            "token_logprobs": [_logprob(position.chosen) for position in positions],
            "top_logprobs": [_alternatives(position) for position in positions],
            "text_offset": offsets,
        }


def _logprob(token: TokenLogprob) -> float | None:
    return None if token.logprob == UNKNOWN_LOGPROB else max(token.logprob, LOWEST)


def _alternatives(position: PositionLogprobs) -> dict[str, float] | None:
    """Return the best tokens, and the chosen one where it is not among them, as OpenAI does."""
    if not position.top:
        return None
    best = {token.text: max(token.logprob, LOWEST) for token in position.top}
    best.setdefault(position.chosen.text, max(position.chosen.logprob, LOWEST))
    return best
