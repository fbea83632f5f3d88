"""Names of queues."""

from __future__ import annotations

import re
from typing import Final

_QUEUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-(cpu|xpu|cuda)(\.\d{1,3}(-\d{1,3})?)?")


def check_queues(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names if all of them are of queues.

    :raises ValueError: one is not `<model>-<device>`.
    """
    for name in names:
        if not _QUEUE.fullmatch(name):
            raise ValueError(f"{name!r} is not <model>-<device>")
    return names
