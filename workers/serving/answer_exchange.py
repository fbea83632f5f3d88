"""The thread that shares answers with the other workers of a queue, to draft later ones from."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import redis
from celery.utils.log import get_logger

from penstock.errors import PenstockError
from penstock.transport.jobs import answers
from penstock.transport.store.connection import as_unavailable
from penstock.transport.store.scripting import Scripts
from penstock.transport.store.wrong_types import MARK

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from penstock.engine.drafting.answer_index import AnswerIndex
    from penstock.settings import Settings
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)

PAUSE_S: Final = 2.0
"""How long an answer may take to reach the other workers."""

_GATHERING_S: Final = 0.1
"""Answers that end within this time are sent together."""

_LAST_TURN_S: Final = 1.0

_MOST_PAGES: Final = 16
"""Pages of a scope that are read in one turn."""


class AnswerExchange(threading.Thread):
    """Writes new answers to Redis, and reads those of the scopes in use that it has not read yet.

    A worker that starts reads what the others, or it itself, left there. Nothing depends on this:
    if Redis is away, answers are drafted from what is known here.
    """

    def __init__(
        self, *, served_queues: Mapping[str, ServedQueue], store: redis.Redis, settings: Settings
    ) -> None:
        super().__init__(name="answer-exchange", daemon=True)
        self._scripts = Scripts(store, settings)
        self._most_bytes = settings.answer_bytes
        self._served_queues = served_queues
        self._store = store
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._read: dict[tuple[str, str], str] = {}
        self._foreign: set[tuple[str, str]] = set()

    def _indices(self) -> list[tuple[str, AnswerIndex]]:
        """Return the indices by queue; a model that is loaded on demand gets its own at its load."""
        indices = [
            (queue, served.answers)
            for queue, served in self._served_queues.items()
            if served.answers is not None
        ]
        for _, index in indices:
            index.changed = self._changed
        return indices

    def close(self) -> None:
        """Write what is new, within a second, and stop."""
        self._closing.set()
        self._changed.set()
        if self.ident is not None:
            self.join(_LAST_TURN_S)

    def run(self) -> None:
        """Exchange until closed."""
        queues = self._served_queues.values()
        while self._indices() or any(served.on_demand for served in queues):
            self._changed.wait(PAUSE_S)
            self._closing.wait(_GATHERING_S)
            self._changed.clear()
            closing = self._closing.is_set()
            try:
                self.turn()
            except (redis.RedisError, PenstockError) as error:
                as_unavailable(error)  # logs a refusal; the heartbeat reports Redis's absence
                self._closing.wait(PAUSE_S)
            except Exception:
                logger.exception("Answers could not be exchanged")
                self._closing.wait(PAUSE_S)
            if closing:
                return

    def turn(self) -> None:
        """Write what is new, and read what others wrote.

        :raises redis.RedisError: Redis is away, or refuses.
        """
        for queue, index in self._indices():
            self._write(queue, index)
            if self._closing.is_set():
                continue
            scopes = index.scopes()
            for scope in scopes:
                with self._apart(queue, scope):
                    self._fetch(queue, scope, index)
            unused = {key for key in self._read if key[0] == queue} - {
                (queue, scope) for scope in scopes
            }
            for key in unused:
                del self._read[key]
                self._foreign.discard(key)

    def _write(self, queue: str, index: AnswerIndex) -> None:
        by_scope: dict[str, list[tuple[int, ...]]] = {}
        for scope, text in index.unread():
            by_scope.setdefault(scope, []).append(text)
        for scope, texts in by_scope.items():
            with self._apart(queue, scope):
                answers.add(self._scripts, queue, scope, texts, most_bytes=self._most_bytes)

    @contextmanager
    def _apart(self, queue: str, scope: str) -> Generator[None]:
        """Go on with the other scopes if a key of this one is not ours; log it once."""
        try:
            yield
        except redis.ResponseError as error:
            if MARK not in str(error):
                raise
            if (queue, scope) not in self._foreign:
                self._foreign.add((queue, scope))
                logger.warning("Answers of %s are not exchanged: %s", queue, error)

    def _fetch(self, queue: str, scope: str, index: AnswerIndex) -> None:
        for _ in range(_MOST_PAGES):
            after = self._read.get((queue, scope), "")
            texts, last = answers.read(self._store, queue, scope, after)
            for text in texts:
                index.add(scope, text)
            self._read[queue, scope] = last
            if len(texts) < answers.PAGE or self._closing.is_set():
                return
