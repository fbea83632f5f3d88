"""Long prompts and long calls: prepared apart, so that nothing short waits for them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest

from penstock.contract.job import ChatPrompt, TextPrompt, TokenPrompt
from penstock.contract.structure import ChoiceStructure
from penstock.contract.tokenizer_calls import Tokenize, TokenizerCall
from penstock.models.text.rendering import TakesLong
from penstock.transport.replies import tokenizer_calls
from tests.fixtures.jobs import wait_until
from tests.unit.workers.fakes import FakeTokenizer, Slips, make_served
from tests.unit.workers.test_preparer import QUEUE, Desk
from workers.serving import tokenizer_service
from workers.serving.claimed_jobs import Outcome, Ticket
from workers.serving.long_texts import HUGE_BYTES, LONG_BYTES, LongTexts, size_of
from workers.serving.tokenizer_service import TokenizerService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Prompt
    from penstock.contract.tokenizer_calls import TokenizerReply

LONG, HUGE = "l" * (LONG_BYTES + 1), "h" * (HUGE_BYTES + 1)


class SlowTokenizer(FakeTokenizer):
    """Waits at texts that begin with the letters `waits`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waits = ""
        self.threads: dict[str, str] = {}

    def encode(self, prompt: Prompt) -> list[int]:
        assert isinstance(prompt, TextPrompt)
        first = prompt.text[:1]
        self.threads[first] = threading.current_thread().name
        if first in self.waits:
            assert self.gate.wait(20)
        return [1, 2]


@pytest.fixture
def slow() -> Iterator[SlowTokenizer]:
    slow = SlowTokenizer()
    yield slow
    slow.gate.set()


@pytest.fixture
def desk(slow: Any) -> Iterator[Desk]:
    desk = Desk()
    desk.served.tokenizer = slow
    desk.preparer.start()
    yield desk
    slow.gate.set()
    desk.preparer.close()
    desk.preparer.join(10)


def submitted(desk: Desk) -> list[str]:
    return [one.attempt_id for one in desk.engine.submitted]


def test_sizes() -> None:
    assert size_of(TextPrompt("abc")) == 3
    assert size_of(TokenPrompt((1, 2))) == 2
    assert size_of(ChatPrompt(({"role": "user", "content": "x" * 50},))) > 50
    assert size_of(TextPrompt("abc"), ChoiceStructure(("y" * 50,))) > 53


def test_a_short_prompt_waits_for_no_long_one_and_a_long_one_for_no_huge_one(
    desk: Desk, slow: SlowTokenizer
) -> None:
    slow.waits = "h"
    desk.offer("huge", text=HUGE)
    desk.offer("long", text=LONG)
    desk.offer("short", text="s" * LONG_BYTES)
    slips = Slips()
    desk.preparer.put(Ticket(QUEUE, slips))
    wait_until(lambda: sorted(submitted(desk)) == ["long:1", "short:1"])
    assert desk.claimed.get("huge:1") is not None  # its lease is renewed meanwhile
    slow.gate.set()
    wait_until(lambda: "huge:1" in submitted(desk))
    names = {"s": "preparer", "l": "long-prompts-0", "h": "long-prompts-1"}
    assert slow.threads == names


def test_a_template_that_takes_long_goes_on_elsewhere(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(prompt: Any) -> list[int]:
        if threading.current_thread().name == "preparer":
            raise TakesLong
        return [7]

    monkeypatch.setattr(desk.served.tokenizer, "encode", encode)
    desk.offer("one")
    desk.preparer.put(Ticket(QUEUE, Slips()))
    wait_until(lambda: submitted(desk) == ["one:1"])
    assert not desk.hooks.published


def test_a_long_prompt_that_was_lost_meanwhile_is_not_submitted(
    desk: Desk, slow: SlowTokenizer
) -> None:
    slow.waits = "l"
    desk.offer("gone", text=LONG)
    desk.offer("next", text=LONG)
    desk.preparer.put(Ticket(QUEUE, Slips()))
    wait_until(lambda: "l" in slow.threads)
    claimed = desk.claimed.get("gone:1")
    assert claimed is not None
    desk.hooks.lose(claimed)
    slow.gate.set()
    wait_until(lambda: submitted(desk) == ["next:1"])


def test_a_long_prompt_that_the_engine_does_not_take_is_let_go(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*requests: object) -> None:
        raise MemoryError

    monkeypatch.setattr(desk.engine, "submit", explode)
    desk.offer("one", text=LONG)
    slips = Slips()
    desk.preparer.put(Ticket(QUEUE, slips))
    wait_until(lambda: slips.outcomes == [Outcome.ENDED])
    assert desk.hooks.lost == ["one:1"]


def test_work_that_fails_does_not_end_the_thread() -> None:
    long, done = LongTexts("test"), threading.Event()

    def explode() -> None:
        raise ZeroDivisionError

    assert long.put(explode, 1)
    assert long.put(done.set, 1)
    assert done.wait(10)
    long.close()


class Calls:
    """A desk of small calls over a fake Redis, whose replies are kept."""

    def __init__(self, slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        served = make_served(QUEUE)
        served.tokenizer = slow
        self.replies: dict[str, TokenizerReply] = {}
        self.desk = TokenizerService(served_queues={QUEUE: served}, store=fakeredis.FakeRedis())
        monkeypatch.setattr(tokenizer_calls, "answer", self._answer)

    def _answer(self, _store: object, _channel: str, reply: TokenizerReply) -> None:
        self.replies[reply.id] = reply

    def call(self, name: str, text: str) -> None:
        call = TokenizerCall(name, queue=QUEUE, reply="channel", call=Tokenize(TextPrompt(text)))
        self.desk._take(call)


def test_a_short_call_waits_for_no_long_one_and_too_many_long_ones_are_refused(
    slow: SlowTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(slow, monkeypatch)
    slow.waits = "l"
    calls.call("first", LONG)
    wait_until(lambda: "l" in slow.threads)
    for number in range(tokenizer_service.MOST_WAITING):
        calls.call(f"waits-{number}", LONG)
    began_s = time.monotonic()
    calls.call("short", "s")
    calls.call("one too many", LONG)
    assert time.monotonic() - began_s < 5
    assert calls.replies["short"].token_ids == (1, 2)
    assert calls.replies["one too many"].error_code == "queue_full"
    assert "first" not in calls.replies
    slow.gate.set()
    last = f"waits-{tokenizer_service.MOST_WAITING - 1}"
    wait_until(lambda: last in calls.replies)
    assert calls.replies["first"].token_ids == (1, 2)
    calls.desk.close()
