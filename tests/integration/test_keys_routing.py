"""One model on several queues: what is over one queue's bound goes to another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.fixtures.api import WORDS
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from tests.fixtures.api import Fleet

OTHER = {"queue": "tiny-xpu", "device": "xpu"}


def test_a_full_queue_spills_over(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=2)
    first = fleet.worker()
    second = fleet.worker(**OTHER)
    first.accepting = second.accepting = False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "input": "hello", "background": True}
        kept = [client.responses.create(**asked) for _ in range(4)]
        assert fleet.depth("tiny-cpu").waiting_jobs == 2
        assert fleet.depth("tiny-xpu").waiting_jobs == 2
        with pytest.raises(openai.RateLimitError) as caught:
            client.responses.create(**asked)
        assert caught.value.code == "queue_full"
        first.accepting = second.accepting = True
        for response in kept:
            wait_until(lambda one=response: client.responses.retrieve(one.id).status == "completed")
            assert client.responses.retrieve(response.id).output_text == "".join(WORDS)


def test_the_choices_of_one_request_may_spill(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=2)
    first = fleet.worker()
    second = fleet.worker(**OTHER)
    first.accepting = second.accepting = False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        threading.Timer(0.5, lambda: setattr(first, "accepting", True)).start()
        threading.Timer(0.5, lambda: setattr(second, "accepting", True)).start()
        answer = client.completions.create(model="tiny", prompt="a", n=4)
    assert [choice.text for choice in answer.choices] == ["".join(WORDS)] * 4
    assert {len(first.jobs), len(second.jobs)} == {2}


def test_another_version_is_no_spill_over(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=1)
    first = fleet.worker(aliases=("chat",))
    other = fleet.worker(name="newer", queue="newer-cpu", aliases=("chat",))
    first.accepting = other.accepting = False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "input": "hello", "background": True}
        client.responses.create(**asked)
        with pytest.raises(openai.RateLimitError):
            client.responses.create(**asked)
        assert fleet.depth("newer-cpu").waiting_jobs == 0
    first.accepting = other.accepting = True
    wait_until(lambda: fleet.depth("tiny-cpu").waiting_jobs == 0)
