"""A request that may be repeated: the same key means the same jobs, on any API process.

A client that sends `Idempotency-Key` can lose its connection and ask again, with the same key and
body, and with `Last-Event-ID` if it has seen part of the stream already: it gets the rest. Its
jobs go on without it for `settings.resume_grace_s`; a client without a key takes its jobs along.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from starlette.requests import Request

    from penstock.contract.job import Generate

KEY_HEADER: Final = "idempotency-key"
EVENT_HEADER: Final = "last-event-id"
LONGEST_KEY: Final = 256
MOST_DIGITS: Final = 15
ID_CHARACTERS: Final = 32
EVENT_ID: Final = re.compile(r"(-?[0-9]{1,14})(?:-([0-9a-f]{8}))?")
"""An event's index, and a digest of the tokens up to it; earlier versions wrote the index alone."""
SEED_BYTES: Final = 7
"""A seed has to fit into what OpenAI takes for one."""


@dataclass(frozen=True)
class SeenEvent:
    """The last event that a client has seen: its index, -1 for none, and its digest if it has one."""

    index: int = -1
    digest: int | None = None


@dataclass(frozen=True)
class Resumption:
    """The client's name for its request, and the last event that it has seen."""

    key: str
    seen: SeenEvent = SeenEvent()

    def job_id(self, tenant: str, position: int) -> str:
        """Return the id of the request's job number `position`; tenants do not share keys."""
        text = f"{tenant}\0{self.key}\0{position}"
        return hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS]

    def seed(self, tenant: str) -> int:
        """Return the seed of a request that names none: repeated, it must give the same answer.

        Where Redis has lost the job meanwhile, the client has a part of an answer that is made
        again.
        """
        text = f"{tenant}\0{self.key}\0seed"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:SEED_BYTES])

    def digest(self, work: Generate) -> str:
        """Return what must be the same when the request is repeated: all but a seed of ours."""
        unseeded = msgspec.structs.replace(
            work, sampling=msgspec.structs.replace(work.sampling, seed=0)
        )
        return hashlib.sha256(msgspec.json.encode(unseeded)).hexdigest()[:ID_CHARACTERS]


def event_index(text: str | None, param: str) -> int:
    """Return the index that a client has seen last, -1 for none.

    :raises InvalidParameter: it is not a number that we have sent.
    """
    if not text:
        return -1
    if not (text.isascii() and text.lstrip("-").isdigit() and len(text) <= MOST_DIGITS):
        raise InvalidParameter(f"{param}: {text[:40]!r} is not an event's index", param=param)
    return max(int(text), -1)


def seen_event(text: str | None, param: str) -> SeenEvent:
    """Return the event that an id names.

    :raises InvalidParameter: it is no id that we have sent.
    """
    if not text:
        return SeenEvent()
    parts = EVENT_ID.fullmatch(text)
    if parts is None:
        raise InvalidParameter(f"{param}: {text[:40]!r} is not an event's id", param=param)
    return SeenEvent(max(int(parts[1]), -1), int(parts[2], 16) if parts[2] else None)


def resumption_of(request: Request) -> Resumption | None:
    """Return how the request may be repeated, by its headers; None without a key.

    :raises InvalidParameter: the key is too long, or `Last-Event-ID` comes without one.
    """
    key = request.headers.get(KEY_HEADER, "")
    seen = seen_event(request.headers.get(EVENT_HEADER), EVENT_HEADER)
    if not key:
        if seen.index >= 0:
            raise InvalidParameter(
                "Last-Event-ID continues a request that was sent with an Idempotency-Key",
                param=EVENT_HEADER,
            )
        return None
    if len(key) > LONGEST_KEY:
        raise InvalidParameter(
            f"{KEY_HEADER}: over {LONGEST_KEY} characters long", param=KEY_HEADER
        )
    return Resumption(key, seen)
