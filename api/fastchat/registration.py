"""Which FastChat workers may register, and what they may report about themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from api.http.host_list import PORTS, allows
from penstock.errors import NotPermitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.transport.fleet.fastchat_workers import PeerCard

MOST_MODELS: Final = 100
"""Models of one worker."""
LONGEST_NAME: Final = 200
"""Characters of a model's name."""
MOST_LOAD: Final = 10**9
"""Of a worker's speed and of its queue's length."""
ANYWHERE: Final = ("*", "0.0.0.0/0", "::/0")


class Status(msgspec.Struct, frozen=True):
    """What `/worker_get_status` answers."""

    model_names: tuple[str, ...]
    speed: float = 1.0
    queue_length: int = 0


def status_of(answer: object) -> Status:
    """Return a worker's own status.

    :raises ValueError: it is none, or out of bounds.
    """
    try:
        status = msgspec.convert(answer, Status)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    if len(status.model_names) > MOST_MODELS:
        raise ValueError(f"it serves more than {MOST_MODELS} models")
    if any(not 0 < len(name) <= LONGEST_NAME for name in status.model_names):
        raise ValueError(f"a model's name has no or more than {LONGEST_NAME} characters")
    if not 0 <= status.speed <= MOST_LOAD or not 0 <= status.queue_length <= MOST_LOAD:
        raise ValueError(f"speed and queue_length are from 0 to {MOST_LOAD}")
    return status


def updated(card: PeerCard, status: Status) -> PeerCard:
    """Return a worker's card with what it reports of itself."""
    reported = msgspec.structs.asdict(status)
    reported["models"] = reported.pop("model_names")
    return msgspec.structs.replace(card, **reported)


def checked_url(name: str, allowed: Sequence[str]) -> str:
    """Return a worker's base URL, if `allowed` has its host (`host_list.allows`).

    :raises NotPermitted: registration is off, or the URL is not on the list.
    """
    if not allowed:
        raise NotPermitted(
            "FastChat workers may not register here: PENSTOCK_FASTCHAT_WORKER_HOSTS names no host, "
            "and the controller's address has no PENSTOCK_FASTCHAT_WORKER_TOKEN in it"
        )
    try:
        parts = urlsplit(name)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, parts, port = None, urlsplit(""), None
    bare = not (parts.username or parts.password or parts.query or parts.fragment)
    if not host or parts.scheme not in ("http", "https") or not bare or parts.path not in ("", "/"):
        raise NotPermitted("worker_name must be a plain base URL: http://host:port")
    port = port or PORTS[parts.scheme]
    if not allows(allowed, host, port):
        raise NotPermitted(f"{host}:{port} is not in PENSTOCK_FASTCHAT_WORKER_HOSTS")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port}"
