"""Runs batches: each by one API process at a time, by another when that one dies.

A line is a request that the process makes to itself at the lowest priority, under an idempotency
key of its own: one that was under way when its driver died is the same job for the next driver.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from api.http.errors import internal_error, openai_error
from api.openai.batches.drive import LEASE_S, Drive
from api.openai.batches.files import store_of
from api.openai.batches.storage import objects_of
from api.openai.batches.store import ENDED, BatchStore
from penstock.errors import PenstockError, StoreUnavailable
from penstock.transport import keys
from penstock.transport.store.named_lease import Lease

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from api.openai.batches.store import Batch
    from api.services import Services

logger = logging.getLogger("penstock.api")

LOOK_S: Final = 1.0
SWEEP_S: Final = 600.0
"""Nobody sees a file that has expired; the fleet deletes such files this often, as it reads them all."""
SWEEP_LOOK_S: Final = 30.0
MOST_BREAKDOWNS: Final = 5
"""Drives of a batch that may end in an unexpected error, one after another, before it fails."""


async def drive_forever(app: ASGIApp, services: Services) -> None:
    """Drive every open batch that no other process drives; every API process runs this."""
    driver = Driver(app, services)
    looked_s = float("-inf")
    try:
        while True:
            try:
                await driver.look()
                if time.monotonic() - looked_s > SWEEP_LOOK_S:
                    looked_s = time.monotonic()
                    await sweep_in_turn(services)
            except Exception:
                logger.exception("batches")
            await asyncio.sleep(LOOK_S)
    finally:
        await driver.stop()


async def sweep_in_turn(services: Services) -> None:
    """Delete expired files, unless one of the fleet's processes has done so lately."""
    turn = Lease(services.redis, keys.lease("files"), uuid.uuid4().hex, SWEEP_S)
    if await turn.take():  # and keep: its end is the next one's turn
        await asyncio.to_thread(store_of(services.settings).sweep)


class Driver:
    """The drives of one process."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._store = BatchStore(objects_of(services.settings))
        self._drives: dict[str, asyncio.Task[None]] = {}
        self._breakdowns: Counter[str] = Counter()

    async def look(self) -> None:
        """Start a drive of each batch that has none."""
        self._drives = {name: task for name, task in self._drives.items() if not task.done()}
        for batch_id in await asyncio.to_thread(self._store.open_ids):
            if batch_id in self._drives:
                continue
            lease = Lease(self._services.redis, keys.lease(batch_id), uuid.uuid4().hex, LEASE_S)
            if not await lease.take():
                continue
            batch = await asyncio.to_thread(self._store.get, batch_id)
            if batch is None or batch.status in ENDED:
                if batch is not None:
                    await asyncio.to_thread(self._store.close, batch)
                await lease.release()
                continue
            self._drives[batch_id] = asyncio.create_task(self._drive(batch, lease))

    async def _drive(self, batch: Batch, lease: Lease) -> None:
        try:
            await Drive(self._app, self._services, batch, lease).run()
        except (PenstockError, RedisError, OSError) as error:  # Redis or the disk is away
            logger.warning("batch %s waits: %s", batch.id, error)
        except Exception:
            logger.exception("batch %s", batch.id)
            self._breakdowns[batch.id] += 1
            if self._breakdowns[batch.id] >= MOST_BREAKDOWNS:
                await self._give_up(batch)
        else:
            self._breakdowns.pop(batch.id, None)

    async def _give_up(self, batch: Batch) -> None:
        """End a batch that no drive gets through."""
        error = {**openai_error(internal_error())["error"], "line": None}
        try:
            now = await asyncio.to_thread(self._store.get, batch.id) or batch
            await asyncio.to_thread(self._store.close, now.to("failed", errors=(error,)))
        except (StoreUnavailable, OSError) as failure:
            logger.warning("batch %s cannot be closed: %s", batch.id, failure)
        else:
            del self._breakdowns[batch.id]

    async def stop(self) -> None:
        """Leave every batch to another process."""
        for task in self._drives.values():
            task.cancel()
        await asyncio.gather(*self._drives.values(), return_exceptions=True)
