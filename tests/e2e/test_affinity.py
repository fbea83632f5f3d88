"""Conversations on several workers find what their earlier turns have computed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from benchmarks.sleeping import BLOCK_TOKENS, queue_of
from tests.fixtures.processes import cards, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = queue_of(5, token_us=1000)
MODEL = QUEUE.removesuffix("-cpu")
WORKERS = 3
TURNS = 4


class Conversation:
    """Turns of one chat; `missed` tokens were computed again though an earlier turn had them."""

    def __init__(self, url: str, number: int) -> None:
        self._client = httpx.Client(base_url=url, timeout=60.0)
        self._number = number
        self._messages: list[dict[str, str]] = []
        self._known = 0
        self.missed: list[int] = []

    def turn(self) -> None:
        words = " ".join("x" * (1 + (self._number * 7 + n * 3) % 97) for n in range(100))
        self._messages.append({"role": "user", "content": words})
        body: dict[str, Any] = {"model": MODEL, "messages": self._messages, "max_tokens": 4}
        answer = self._client.post("/v1/chat/completions", json=body).raise_for_status().json()
        self._messages.append(answer["choices"][0]["message"])
        usage = answer["usage"]
        found = usage["prompt_tokens_details"]["cached_tokens"]
        self.missed.append(self._known // BLOCK_TOKENS * BLOCK_TOKENS - found)
        self._known = usage["prompt_tokens"]

    def hold(self) -> None:
        for _ in range(TURNS):
            self.turn()
        self._client.close()


@pytest.mark.slow
def test_turns_come_back_to_the_worker_that_had_the_last_one(
    processes: Processes, redis_url: str, models_dir: Path
) -> None:
    for _ in range(WORKERS):
        processes.start_worker(
            QUEUE, redis_url, models_dir, application="benchmarks.sleeping_worker", wait=False
        )
    api = processes.start_api(redis_url)
    wait_until(lambda: len(cards(redis_url)) == WORKERS, 90.0)
    wait_until(lambda: httpx.get(f"{api.url}/v1/models").json()["data"], 30.0)
    alone = [Conversation(api.url, number) for number in range(3)]
    for conversation in alone:
        conversation.hold()
    assert [max(conversation.missed) for conversation in alone] == [0, 0, 0]

    crowd = [Conversation(api.url, 10 + number) for number in range(9)]
    threads = [threading.Thread(target=conversation.hold) for conversation in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    missed = [tokens > 0 for conversation in crowd for tokens in conversation.missed[1:]]
    assert sum(missed) <= len(missed) // 5
    # Not by one worker that did it all.
    wait_until(lambda: sum(_finished(card) > 0 for card in cards(redis_url)) == WORKERS, 10.0)


def _finished(card: Any) -> int:
    return card.loads[QUEUE].finished_total
