"""What one worker has answered, another one drafts from."""

from __future__ import annotations

from typing import Any, cast

from penstock.engine.drafting.answer_index import AnswerIndex
from penstock.settings import Settings
from penstock.transport import keys
from tests.fixtures.jobs import wait_until
from workers.serving.answer_exchange import AnswerExchange

QUEUE = "model-cpu"
PROMPT = list(range(10, 20))
ANSWER = list(range(20, 40))


class Served:
    """What the exchange needs of a served queue."""

    def __init__(self) -> None:
        self.answers = AnswerIndex(50)


def exchange_of(store: Any) -> tuple[AnswerExchange, AnswerIndex]:
    served = Served()
    queues = cast("Any", {QUEUE: served})
    return AnswerExchange(served_queues=queues, store=store, settings=Settings()), served.answers


def test_answers_reach_the_workers_whose_tenant_asks(redis_client):
    one, here = exchange_of(redis_client)
    other, there = exchange_of(redis_client)
    there.draft("a", PROMPT, 4)
    here.keep("a", PROMPT, ANSWER)
    here.keep("b", PROMPT, ANSWER[::-1])
    one.turn()
    other.turn()
    assert there.draft("a", PROMPT, 4)[0] == ANSWER[:4]
    assert there.draft("b", PROMPT, 4)[0] == []
    other.turn()
    assert there.draft("b", PROMPT, 4)[0] == ANSWER[::-1][:4]
    assert there.unread() == []
    redis_client.delete(keys.answers(QUEUE, "a"), keys.answers(QUEUE, "b"))


def test_a_key_of_another_type_spoils_its_own_scope_only(redis_client, caplog):
    exchange, index = exchange_of(redis_client)
    redis_client.set(keys.answers(QUEUE, "a"), "foreign")
    for scope in ("a", "b"):
        index.draft(scope, PROMPT, 4)
        index.keep(scope, PROMPT, ANSWER)
    for _ in range(2):
        exchange.turn()
    assert redis_client.xlen(keys.answers(QUEUE, "b")) == 1
    assert caplog.text.count("not exchanged") == 1
    redis_client.delete(keys.answers(QUEUE, "a"), keys.answers(QUEUE, "b"))


def test_the_thread_writes_and_leaves_nothing_unsent(redis_client):
    exchange, index = exchange_of(redis_client)
    exchange.start()
    index.keep("a", PROMPT, ANSWER)
    wait_until(lambda: redis_client.xlen(keys.answers(QUEUE, "a")) == 1)
    index.keep("a", PROMPT, ANSWER[::-1])
    exchange.close()
    assert not exchange.is_alive()
    assert redis_client.xlen(keys.answers(QUEUE, "a")) == 2
    redis_client.delete(keys.answers(QUEUE, "a"))
