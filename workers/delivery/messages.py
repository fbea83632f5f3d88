"""What may come through a queue's list, and what is done with the rest.

Any writer to Redis can push anything. A doorbell carries no work, so one that is
recognised is replaced by a plain one: no field of it can surprise Celery. Anything else must have
the shape of a Celery message, and is dropped with a line in the log if Celery cannot take it.
"""

from __future__ import annotations

import base64
import time
import uuid
from typing import Any, Final, cast

from celery.utils.log import get_logger

from penstock.foreign import parse_json
from workers.delivery.tasks import DOORBELL

logger = get_logger(__name__)

LONGEST_NAME: Final = 200
"""Characters of an id or a delivery tag; ours have 36."""
SHOWN: Final = 160
"""Characters of a dropped message that the log shows."""
CONTROL: Final = ".celery.pidbox"
"""The end of the names of the queues of Celery's remote control."""
LINE_EVERY_S: Final = 1.0
"""A flood of foreign messages is a line a second, with their number."""

_BODY: Final = "W1tdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsfV0="
"""Celery's `[[], {}, {"callbacks": null, "errbacks": null}]` in base64."""


class ForeignMessage(Exception):
    """A message that nothing of Penstock or Celery has sent."""


def accepted(message: Any, queue: str) -> dict[str, Any]:
    """Return a message of `queue` in a shape that Celery can take.

    :raises ForeignMessage: it has another shape.
    """
    if not isinstance(message, dict):
        raise ForeignMessage(f"not an object but {type(message).__name__}")
    fields = cast("dict[str, Any]", message)
    headers, properties = _object(fields.get("headers")), _object(fields.get("properties"))
    if headers is None or properties is None:
        raise ForeignMessage("no headers or no properties")
    is_control = queue.endswith(CONTROL)
    if headers.get("task") == DOORBELL and not is_control:
        return _doorbell(queue, headers.get("id"), properties.get("delivery_tag"))
    info = _object(properties.get("delivery_info"))
    if info is None or not isinstance(info.get("routing_key"), str):
        raise ForeignMessage("no delivery_info")
    if not _is_name(properties.get("delivery_tag")):
        raise ForeignMessage("no delivery_tag")
    body = fields.get("body", "")
    if not isinstance(body, str):
        raise ForeignMessage("its body is not text")
    if is_control and not _is_command(body, properties.get("body_encoding")):
        raise ForeignMessage("no command of Celery's remote control")
    return fields


def _is_command(body: str, encoding: object) -> bool:
    """Return whether a body holds an object, as Celery's handler of commands expects."""
    try:
        text = base64.b64decode(body) if encoding == "base64" else body.encode()
        return isinstance(parse_json(text), dict)
    except ValueError:
        return False


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def is_doorbell(message: dict[str, Any]) -> bool:
    """Return whether an accepted message is a doorbell."""
    return message["headers"].get("task") == DOORBELL


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def _doorbell(queue: str, task_id: Any, tag: Any) -> dict[str, Any]:
    """Return a plain doorbell; its id and tag stay, if they are usable."""
    name = task_id if _is_name(task_id) else str(uuid.uuid4())
    return {
        "body": _BODY,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": DOORBELL, "id": name, "root_id": name, "parent_id": None,
            "group": None, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None],
            "argsrepr": "()", "kwargsrepr": "{}", "origin": "penstock", "ignore_result": True,
        },
        "properties": {
            "correlation_id": name, "reply_to": "", "delivery_mode": 2, "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "base64",
            "delivery_tag": tag if _is_name(tag) else str(uuid.uuid4()),
        },
    }  # fmt: skip


class Dropped:
    """Writes a line about dropped messages, one a second at most. Owned by the main thread."""

    def __init__(self) -> None:
        self._told_s = float("-inf")
        self._untold = 0

    def note(self, why: object, shown: object = "") -> None:
        """Note that a message was dropped, and why; `shown` is a part of it."""
        now_s = time.monotonic()
        if now_s - self._told_s < LINE_EVERY_S:
            self._untold += 1
            return
        more = f" (and {self._untold} more since the last line)" if self._untold else ""
        self._told_s, self._untold = now_s, 0
        logger.warning(
            "Dropped a message that is no doorbell: %s %s%s",
            ascii(str(why))[:SHOWN], ascii(shown)[:SHOWN] if shown else "", more,
        )  # fmt: skip


dropped: Final = Dropped()
"""The process's account of foreign messages."""
