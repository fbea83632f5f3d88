"""The thread that answers small calls: tokenise, detokenise, render."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import redis
from celery.utils.log import get_logger

from penstock.contract.tokenizer_calls import (
    Detokenize,
    Render,
    Tokenize,
    UtilityCall,
    UtilityReply,
)
from penstock.errors import PenstockError
from penstock.transport.replies import tokenizer_calls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.serving.served_queue import Lane

logger = get_logger(__name__)

_WAIT_S = 1.0


class UtilityDesk(threading.Thread):
    """Takes calls of all lanes in turn; never waits for a running answer."""

    def __init__(self, *, lanes: Mapping[str, Lane], store: redis.Redis) -> None:
        super().__init__(name="utility", daemon=True)
        self._lanes = lanes
        self._store = store
        self._closing = threading.Event()

    def close(self) -> None:
        """Take no further call."""
        self._closing.set()

    def run(self) -> None:
        """Answer until closed."""
        while not self._closing.is_set():
            try:
                call = tokenizer_calls.take(self._store, list(self._lanes), timeout_s=_WAIT_S)
                if call is not None:
                    tokenizer_calls.answer(
                        self._store, call.reply, answer(call, self._lanes[call.queue])
                    )
            except (redis.RedisError, PenstockError):
                self._closing.wait(_WAIT_S)  # the heartbeat tells of Redis's absence
            except Exception:
                logger.exception("A small call was not answered")


def answer(call: UtilityCall, lane: Lane) -> UtilityReply:
    """Compute the reply to a call; an error becomes a reply that names it."""
    try:
        with lane.encoding:
            match call.call:
                case Tokenize(prompt):
                    return UtilityReply(call.id, token_ids=tuple(lane.tokenizer.encode(prompt)))
                case Detokenize(token_ids, each):
                    texts = tuple(map(lane.tokenizer.token_text, token_ids)) if each else ()
                    text = lane.tokenizer.decode(token_ids)
                    return UtilityReply(call.id, text=text, texts=texts)
                case Render(prompt):
                    return UtilityReply(call.id, text=lane.tokenizer.render(prompt))
    except PenstockError as error:
        return UtilityReply(call.id, error_code=error.code, error_message=error.message)
    except Exception as error:
        logger.exception("A small call failed")
        return UtilityReply(
            call.id, error_code=PenstockError.code, error_message=f"{type(error).__name__}: {error}"
        )
