"""The thread that answers tokenizer calls: tokenise, detokenise, render."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import redis
from celery.utils.log import get_logger

from penstock.contract.tokenizer_calls import (
    Detokenize,
    LoadAdapter,
    Render,
    Tokenize,
    TokenizerCall,
    TokenizerReply,
)
from penstock.errors import NoWorker, PenstockError, QueueFull, UnsupportedFeature
from penstock.models.text import rendering
from penstock.transport.jobs import images
from penstock.transport.replies import tokenizer_calls
from penstock.transport.store.connection import as_unavailable
from workers.serving.long_texts import HUGE_BYTES, LONG_BYTES, LongTexts, size_of
from workers.serving.preparation import has_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.contract.adapter import AdapterCard
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)

_WAIT_S = 1.0
LINE_EVERY_S: Final = 0.05
"""A flood of foreign messages fills neither the log nor the processor; the list is bounded."""
MOST_WAITING: Final = 8
"""Calls on long texts that may wait, and as many on huge ones; more are refused."""


class TokenizerService(threading.Thread):
    """Answers the calls of all served queues in turn; never waits for the engine.

    It also waits for the calls to jobs, since it waits for Redis anyway.
    """

    def __init__(
        self,
        *,
        served_queues: Mapping[str, ServedQueue],
        store: redis.Redis,
        worker_id: str = "",
        called: Callable[[str], None] = lambda _queue: None,
    ) -> None:
        """`called` gets the queue of a job to which `worker_id` is called."""
        super().__init__(name="tokenizer-calls", daemon=True)
        self._worker_id = worker_id
        self._called = called
        self._served_queues = served_queues
        self._store = store
        self._closing = threading.Event()
        self._long = LongTexts("long-calls", most_waiting=MOST_WAITING)

    def close(self) -> None:
        """Take no more calls."""
        self._closing.set()
        self._long.close()

    def run(self) -> None:
        """Answer until closed."""
        while not self._closing.is_set():
            try:
                call = tokenizer_calls.take(
                    self._store,
                    list(self._served_queues),
                    timeout_s=_WAIT_S,
                    worker_id=self._worker_id,
                )
                if isinstance(call, tokenizer_calls.CalledToJob):
                    self._called(call.queue)
                elif call is not None:
                    self._take(call)
            except (redis.RedisError, PenstockError) as error:
                as_unavailable(error)  # logs a refusal; the heartbeat reports Redis's absence
                self._closing.wait(_WAIT_S)
            except tokenizer_calls.ForeignCall as error:
                logger.warning("Dropped a message that is no tokenizer call: %s", ascii(str(error)))
                self._closing.wait(LINE_EVERY_S)
            except Exception:
                logger.exception("A tokenizer call was not answered")

    def _take(self, call: TokenizerCall) -> None:
        """Answer a call now, or apart if other calls would wait too long for it."""
        served = self._served_queues[call.queue]
        size = _size(call)
        if size <= LONG_BYTES:
            try:
                with rendering.quickly():
                    tokenizer_calls.answer(self._store, call.reply, self._answer(call, served))
            except rendering.TakesLong:
                size = HUGE_BYTES + 1
            else:
                return
        if not self._long.put(lambda: self._answer_long(call, served), size):
            busy = QueueFull("too many long texts are being tokenised")
            refusal = TokenizerReply(call.id, error_code=busy.code, error_message=busy.message)
            tokenizer_calls.answer(self._store, call.reply, refusal)

    def _answer_long(self, call: TokenizerCall, served: ServedQueue) -> None:
        with suppress(redis.RedisError):  # the caller's own timeout ends its wait
            tokenizer_calls.answer(self._store, call.reply, self._answer(call, served))

    def _answer(self, call: TokenizerCall, served: ServedQueue) -> TokenizerReply:
        return answer(call, served, partial(images.fetch, self._store, patience_s=_WAIT_S))


def _size(call: TokenizerCall) -> int:
    match call.call:
        case Tokenize(prompt) if has_images(prompt):
            return HUGE_BYTES + 1
        case Detokenize(token_ids):
            return len(token_ids)
        case Tokenize(prompt) | Render(prompt):
            return size_of(prompt)
        case LoadAdapter():
            return HUGE_BYTES + 1


def _adapter(served: ServedQueue, name: str, path: str) -> AdapterCard:
    """Load an adapter.

    :raises NoWorker: the model is not in memory.
    :raises UnsupportedFeature: the model takes none.
    :raises InvalidParameter: it cannot be used.
    """
    if served.on_demand is not None and not served.open:
        raise NoWorker(f"{served.card.name} is not in memory: load the adapter once it is")
    if served.adapters is None:
        raise UnsupportedFeature(f"{served.card.name} takes no adapters")
    return served.adapters.read(name, path)


def answer(  # noqa: PLR0911 - one a kind of call
    call: TokenizerCall, served: ServedQueue, fetch: Callable[[list[str]], list[bytes]]
) -> TokenizerReply:
    """Compute the reply to a call; an error becomes a reply that names it.

    `fetch` returns images by their digests.

    :raises TakesLong: its template does, in a thread that others wait for.
    """
    is_absent = served.on_demand is not None and not served.open
    try:
        match call.call:
            case Tokenize(prompt) if has_images(prompt) and is_absent:
                why = f"{served.card.name} is not in memory to count images"
                raise NoWorker(why)  # noqa: TRY301 - becomes a reply like the others
            case Tokenize(prompt) if has_images(prompt) and served.vision is not None:
                token_ids, _ = served.vision(prompt, fetch(list(prompt.images)))
                return TokenizerReply(call.id, token_ids=tuple(token_ids))
            case Tokenize(prompt):
                return TokenizerReply(call.id, token_ids=tuple(served.tokenizer.encode(prompt)))
            case Detokenize(token_ids, each):
                texts = tuple(map(served.tokenizer.token_text, token_ids)) if each else ()
                text = served.tokenizer.decode(token_ids)
                return TokenizerReply(call.id, text=text, texts=texts)
            case Render(prompt):
                return TokenizerReply(call.id, text=served.tokenizer.render(prompt))
            case LoadAdapter(name, path):
                return TokenizerReply(call.id, adapter=_adapter(served, name, path))
    except rendering.TakesLong:
        raise
    except PenstockError as error:
        return TokenizerReply(call.id, error_code=error.code, error_message=error.message)
    except Exception as error:
        logger.exception("A tokenizer call failed")
        return TokenizerReply(
            call.id, error_code=PenstockError.code, error_message=f"{type(error).__name__}: {error}"
        )
