"""A response as it is stored: the request, and how its answer came. All else follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.contract.events import Failed, PositionLogprobs, Tokens, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.contract.events import Event


class Piece(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A piece of an answer: text, how many tokens it took, and their log probabilities if asked for.

    `text` is empty if the last tokens have completed none.
    """

    text: str
    tokens: int = 0
    logprobs: tuple[PositionLogprobs, ...] = ()


class Ending(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a response ended. `pieces` are those of its events, as they were streamed."""

    status: str
    ended_s: int
    pieces: tuple[Piece, ...] = ()
    usage: Usage | None = None
    error_code: str = ""
    error_message: str = ""


class StoredResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response. `asked` holds the request's fields as they are shown again.

    `input` are the request's own items, `ancestors` the ids of the responses before it, the oldest
    first. `reader` are the fields of the `Reading` of its text. `hidden_token_ids` end an answer;
    their log probabilities are not shown. `namespaces` are those of functions, each with the name
    within it, by the name that the model was shown. `warnings` name what was left out.
    """

    id: str
    tenant: str
    job_id: str
    created_s: int
    asked: dict[str, Any]
    input: tuple[dict[str, Any], ...]
    ancestors: tuple[str, ...] = ()
    background: bool = False
    reader: dict[str, Any] = {}
    namespaces: dict[str, tuple[str, str]] = {}
    warnings: tuple[str, ...] = ()
    hidden_token_ids: frozenset[int] = frozenset()
    ending: Ending | None = None


class Pieces:
    """Makes the pieces of one response from its events, in order: the same ones each time."""

    def __init__(self, stored: StoredResponse) -> None:
        self.all: list[Piece] = []
        self._hidden = stored.hidden_token_ids
        self._tokens = 0
        self._logprobs: list[PositionLogprobs] = []

    def add(self, event: Event) -> Piece | None:
        """Return the piece that an event completes; None if it has completed no text."""
        if isinstance(event, Failed):
            return None
        if isinstance(event, Tokens):
            self._tokens += len(event.token_ids)
        self._logprobs += [
            position for position in event.logprobs if position.chosen.token_id not in self._hidden
        ]
        is_last = not isinstance(event, Tokens)
        if not event.text and not (is_last and (self._tokens or self._logprobs)):
            return None
        piece = Piece(event.text, self._tokens, tuple(self._logprobs))
        self._tokens, self._logprobs = 0, []
        self.all.append(piece)
        return piece

    def add_all(self, events: Iterable[Event]) -> list[Piece]:
        """Return all pieces after some more events."""
        for event in events:
            self.add(event)
        return self.all
