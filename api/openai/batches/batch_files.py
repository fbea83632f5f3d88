"""The files of a batch: the lines to run, and the answers and errors when it ends."""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import chain
from typing import IO, TYPE_CHECKING

import msgspec

from api.openai.batches.answers import Answers, Stream
from api.openai.batches.file_store import new_id
from api.openai.batches.lines import Line, expired_line, lines, output_line, parse
from api.openai.batches.objects import COPY_BYTES
from penstock.errors import UnknownObject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.openai.batches.file_store import FileStore
    from api.openai.batches.store import Batch, BatchStore
    from penstock.settings import Settings


class BatchFiles:
    """Reads the input of one batch and writes its output. Blocking: for threads."""

    def __init__(
        self, batch: Batch, files: FileStore, store: BatchStore, settings: Settings
    ) -> None:
        self._batch = batch
        self._files = files
        self._store = store
        self._most_bytes = settings.max_body_bytes

    def input(self) -> IO[bytes]:
        """Open the batch's file.

        :raises UnknownObject: it was deleted.
        """
        return self._files.open(self._files.own(self._batch.input_file_id, self._batch.tenant))

    def lines_of(self, file: IO[bytes], done: set[int]) -> Iterator[Line]:
        """Yield the lines that are not done."""
        for number, raw in lines(file, self._most_bytes):
            if number not in done:
                yield parse(number, raw, self._batch.endpoint, self._most_bytes)

    def write(self, batch: Batch, why: str) -> None:
        """Write the output and the errors in the lines' order, and close the batch.

        `batch` is its newest version, `why` the status that it ends with. One that another process
        has ended in the meantime is left alone: its answers may be deleted already.
        """
        with Answers(self._store, batch.id) as answers:
            if self._store.has_ended(batch.id):
                return
            good = (output_line(batch, row) for row in answers.rows(good=True))
            output = self._write("output", good)
            errors = self._write("error", self._error_lines(answers, why))
        cancelled_s = self._store.cancelled_s(batch.id)
        if cancelled_s is not None:
            batch = msgspec.structs.replace(batch, times={**batch.times, "cancelling": cancelled_s})
        self._store.close(batch.to(why, output_file_id=output, error_file_id=errors))

    def _error_lines(self, answers: Answers, why: str) -> Iterator[bytes]:
        for row in answers.rows(good=False):
            yield output_line(self._batch, row)
        if why == "expired":
            with suppress(UnknownObject):
                for line in self.lines_of(self.input(), answers.lines()):
                    yield expired_line(self._batch, line)

    def _write(self, kind: str, written: Iterator[bytes]) -> str | None:
        """Store a file of lines; finishing a batch twice writes the same file twice."""
        first = next(written, None)
        if first is None:
            return None
        card = self._files.add(
            io.BufferedReader(Stream(chain((first,), written)), COPY_BYTES),
            tenant=self._batch.tenant,
            filename=f"{self._batch.id}_{kind}.jsonl",
            purpose="batch_output",
            file_id=new_id(f"{self._batch.id}\0{kind}"),
            bounded=False,
        )
        return card.id
