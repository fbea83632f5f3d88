"""Our engine, driven to the end of what it was asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.engine import Engine


def run(engine: Engine, is_done: Callable[[], bool], pause_s: float = 0.01) -> None:
    """Start an engine, wait until all is done, stop it.

    :raises BaseException: what ended the engine before.
    """
    engine.start()
    while not is_done():
        if engine.failure is not None:
            raise engine.failure
        time.sleep(pause_s)
    engine.stop()
