"""This process's share of the fleet's history of measurements."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from penstock.transport.fleet.overview import Overview

if TYPE_CHECKING:
    from api.services import Services

logger = logging.getLogger("penstock.api")


async def flush_history(services: Services) -> None:
    """Add this process's measurements to the fleet's history; keep them if Redis is away."""
    history = services.telemetry.history
    counts = history.take()
    if not counts:
        return
    try:
        await Overview(services.redis).add_history(counts)
    except (RedisError, OSError) as error:
        history.give_back(counts)
        logger.debug("history: %s", error)
