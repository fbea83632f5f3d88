"""One process's work on one batch.

A line is a request that the process makes to itself at the lowest priority, under an idempotency
key of its own: one that was under way when its driver died is the same job for the next driver.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from api.http.caller import LOWEST_PRIORITY, Caller
from api.http.errors import answer_of, internal_error, openai_error
from api.inner_call import InnerAnswer, post
from api.openai.batches.batch_files import BatchFiles
from api.openai.batches.files import store_of
from api.openai.batches.lines import faults
from api.openai.batches.storage import objects_of
from api.openai.batches.store import BatchStore, Row
from penstock.clock import clock
from penstock.errors import UnknownObject
from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from api.openai.batches.lines import Line
    from api.openai.batches.store import Batch
    from api.services import Services
    from penstock.transport.store.named_lease import Lease

logger = logging.getLogger("penstock.api")

LEASE_S: Final = 10.0
RENEW_S: Final = 2.0
FLUSH_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
PASSING: Final = frozenset({429, 503})
"""A line that is answered so is tried again: the queue is full, the key's minute is used up..."""
CANCELLED: Final = 499
"""A line whose job was cancelled; a fresh job takes its place."""
MOST_ATTEMPTS: Final = 5


class Drive:
    """One process's work on one batch, while it has the lease."""

    def __init__(self, app: ASGIApp, services: Services, batch: Batch, lease: Lease) -> None:
        self._app = app
        self._settings = services.settings
        self._store = BatchStore(objects_of(services.settings))
        self._files = BatchFiles(batch, store_of(services.settings), self._store, self._settings)
        self._lease = lease
        self._batch = batch
        self._name = uuid.uuid4().hex
        self._rows: list[Row] = []
        self._done: set[int] = set()
        self._is_ours = True

    async def run(self) -> None:
        """Go on with the batch to its end, or until it is not ours any more."""
        watch = asyncio.create_task(self._watch())
        try:
            if "in_progress" not in self._batch.times and not await self._validate():
                return
            await self._count()
            why = await self._run_lines()
            if self._is_ours:
                await self._finish(why)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            if self._is_ours:
                await self._lease.release()

    async def _watch(self) -> None:
        """Renew the lease; without it for too long, another process may be at work."""
        heard_s = time.monotonic()
        while self._is_ours:
            await asyncio.sleep(RENEW_S)
            answer = await self._lease.renew()
            if answer:
                heard_s = time.monotonic()
            elif answer is False or time.monotonic() - heard_s > LEASE_S - RENEW_S:
                self._is_ours = False

    # -- before and after the lines

    async def _validate(self) -> bool:
        try:
            file = await asyncio.to_thread(self._files.input)
        except UnknownObject as error:
            total, found = 0, [{"code": error.code, "message": error.message, "line": None}]
        else:
            with file:
                total, found = await asyncio.to_thread(
                    faults, file, self._batch.endpoint, self._settings.max_body_bytes
                )
        if found:
            failed = self._batch.to("failed", errors=tuple(found))
            await asyncio.to_thread(self._store.close, failed)
            return False
        await self._save(self._batch.to("in_progress", total=total))
        return True

    async def _save(self, batch: Batch) -> None:
        self._batch = batch
        if await asyncio.to_thread(self._store.has_ended, self._batch.id):
            self._is_ours = False  # another process has ended it
            return
        await asyncio.to_thread(self._store.save, batch)

    async def _count(self) -> None:
        """Take up what earlier drives have left."""

        def read() -> tuple[set[int], int]:
            first: dict[int, int] = {}
            for row in self._store.rows(self._batch.id):
                first.setdefault(row.line, row.status)
            return set(first), sum(status < HTTPStatus.BAD_REQUEST for status in first.values())

        self._done, completed = await asyncio.to_thread(read)
        failed = len(self._done) - completed
        self._batch = msgspec.structs.replace(self._batch, completed=completed, failed=failed)

    async def _finish(self, why: str) -> None:
        """End the batch, unless another process drives it by now, or has ended it.

        If Redis has lost the lease, two processes may have run the same lines for some seconds.
        """
        if await self._lease.renew() is False:
            self._is_ours = False
            return
        if await asyncio.to_thread(self._store.has_ended, self._batch.id):
            return
        finishing = self._batch.to("finalizing") if why == "completed" else self._batch
        await self._save(finishing)
        if self._is_ours:
            await asyncio.to_thread(self._files.write, self._batch, why)

    # -- the lines

    async def _run_lines(self) -> str:
        """Run what is left, a few at a time; return the status that the batch comes to."""
        try:
            file = await asyncio.to_thread(self._files.input)
        except UnknownObject:  # deleted under way: what was done is kept
            return "cancelled"
        waiting = self._files.lines_of(file, self._done)
        running: set[asyncio.Task[None]] = set()
        flushed_s, why = time.monotonic(), "completed"
        try:
            while True:
                await self._fill(running, waiting)
                if not running:
                    break
                await asyncio.wait(running, timeout=FLUSH_S, return_when=asyncio.FIRST_COMPLETED)
                ended = {task for task in running if task.done()}
                running -= ended
                for task in ended:
                    task.result()
                if time.monotonic() - flushed_s >= FLUSH_S:
                    flushed_s = time.monotonic()
                    await self._flush()
                    why = await self._reason_to_stop()
                    if why != "completed" or not self._is_ours:
                        break
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.to_thread(file.close)
        if self._is_ours:
            await self._flush()
        return why

    async def _fill(self, running: set[asyncio.Task[None]], waiting: Iterator[Line]) -> None:
        while len(running) < self._settings.batch_concurrency:
            line = await asyncio.to_thread(next, waiting, None)
            if line is None:
                return
            running.add(asyncio.create_task(self._line(line)))

    async def _reason_to_stop(self) -> str:
        if clock.now_s() >= self._batch.expires_s:
            return "expired"
        asked_s = await asyncio.to_thread(self._store.cancelled_s, self._batch.id)
        return "completed" if asked_s is None else "cancelled"

    async def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        await asyncio.to_thread(self._store.append, self._batch.id, self._name, rows)
        good = sum(row.status < HTTPStatus.BAD_REQUEST for row in rows)
        counted = msgspec.structs.replace(
            self._batch,
            completed=self._batch.completed + good,
            failed=self._batch.failed + len(rows) - good,
        )
        await self._save(counted)

    async def _line(self, line: Line) -> None:
        """Run one line until it is answered for good; an unexpected error is its answer too."""
        request_id = f"{self._batch.id}-{line.number}"
        try:
            answer = await self._answer(line, request_id)
        except Exception:
            logger.exception("line %d of batch %s", line.number, self._batch.id)
            error = internal_error()
            answer = InnerAnswer(
                answer_of(error).status, body=msgspec.json.encode(openai_error(error))
            )
        self._rows.append(
            Row(line.number, line.custom_id, answer.status, request_id, _json(answer.body))
        )

    async def _answer(self, line: Line, request_id: str) -> InnerAnswer:
        batch = self._batch
        card = batch.key
        caller = Caller(batch.tenant, card, card is None or card.admin)
        body = msgspec.json.encode({**line.body, "priority": LOWEST_PRIORITY})
        attempt = 0
        while True:
            left_s = max(batch.expires_s - clock.now_s(), 1.0)
            answer = await post(
                self._app,
                batch.endpoint,
                body,
                caller=caller,
                headers={
                    "idempotency-key": f"{request_id}-{attempt}",
                    "x-request-id": request_id,
                },
                deadline_s=min(left_s, self._settings.background_deadline_s),
            )
            if answer.status == CANCELLED and attempt < MOST_ATTEMPTS:
                attempt += 1
            elif answer.status in PASSING:
                pause_s = float(answer.headers.get("retry-after", "1"))
                await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
            else:
                return answer


def _json(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:
        return body.decode(errors="replace")
