"""The chat page goes on with an answer after a reload, a lost connection and a loss of memory."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from tests.browser.page import Gate, answer, send, start
from tests.fixtures.api import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.contract.job import Job
    from penstock.settings import Settings
    from tests.fixtures.api import ApiServer, Script
    from tests.fixtures.browser import Browser

COUNT = 120


def counting(fleet: Fleet, browser: Browser, numbers: int) -> tuple[Gate, ApiServer]:
    """Ask for an answer that counts, and stops after its first pieces until its gate opens."""
    gate = Gate("".join(f"{n} " for n in range(numbers)), 3)
    gate.allowed = 20
    server = start(fleet, browser, gate)
    send(browser, "count")
    browser.until(lambda: "10 11" in answer(browser, "open").text)
    return gate, server


def test_a_reload_in_mid_answer_shows_the_whole_answer(fleet: Fleet, browser: Browser) -> None:
    gate, _ = counting(fleet, browser, 200)
    browser.driver.refresh()
    browser.until(lambda: "10 11" in answer(browser, "open").text)
    gate.allowed = len(gate.pieces)
    assert "".join(gate.pieces).strip() in answer(browser).text


def test_a_reload_before_the_first_token_shows_the_whole_answer(
    fleet: Fleet, browser: Browser
) -> None:
    gate = Gate("the whole answer")
    gate.allowed = 0
    start(fleet, browser, gate)
    send(browser, "wait")
    browser.until(lambda: fleet.depth().running == 1)
    browser.driver.refresh()
    assert answer(browser, "open")
    gate.allowed = len(gate.pieces)
    assert "the whole answer" in answer(browser).text


def test_a_lost_connection_is_taken_up_again(fleet: Fleet, browser: Browser) -> None:
    gate, server = counting(fleet, browser, 100)
    browser.offline(yes=True)  # of new connections; those that are open must be cut
    server.cut_connections()
    browser.until(lambda: "Connection lost" in answer(browser, "open").text)
    gate.allowed = len(gate.pieces)
    browser.offline(yes=False)
    assert "".join(gate.pieces).strip() in answer(browser).text


@pytest.fixture
def patient_fleet(redis_settings: Settings) -> Iterator[Fleet]:
    """A fleet whose leases do not run out while a browser takes the processor."""
    with ExitStack() as stack:
        yield Fleet(redis_settings.model_copy(update={"lease_ms": 10_000}), stack)


class Counter:
    """Counts to `COUNT`, and from the 40th on by other numbers at each turn if it is `fickle`."""

    def __init__(self, *, fickle: bool) -> None:
        self.fickle = fickle
        self.turns = 0

    def __call__(self, job: Job) -> Script:
        self.turns += 1
        shift = 1_000 * self.turns if self.fickle else 0
        for index in range(COUNT):
            number = index + (shift if index >= 40 else 0)
            yield Tokens(job.id, index, (number,), f"{number} ")
        yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT))


@pytest.mark.parametrize("fickle", [False, True], ids=["the same text", "another text"])
def test_an_answer_that_redis_has_forgotten_is_compared(
    patient_fleet: Fleet, browser: Browser, redis_client: redis.Redis, fickle: bool
) -> None:
    server = patient_fleet.api(keepalive_s=0.3)
    worker = patient_fleet.worker(Counter(fickle=fickle))
    worker.step_s = 0.01
    browser.open(server.url + "/")
    browser.until(lambda: browser.one("#model").get_attribute("value") == "tiny")
    send(browser, "count")
    browser.until(lambda: len(answer(browser, "open").text.split()) > 50)
    browser.offline(yes=True)
    server.cut_connections()
    redis_client.flushall()
    browser.until(lambda: "Connection lost" in answer(browser, "open").text)
    browser.offline(yes=False)
    shown = answer(browser, "failed" if fickle else "done").text
    if fickle:
        assert "This answer cannot be continued." in shown
        assert "comes out differently" in shown
    else:
        assert " ".join(str(number) for number in range(COUNT)) in shown


def test_a_store_that_stays_away_is_given_up(fleet: Fleet, browser: Browser) -> None:
    """Streams that begin and break off without a token are not requested for ever."""
    _, server = counting(fleet, browser, 100)
    browser.script("""
        const genuine = window.fetch;
        window.resumed = [];
        window.fetch = (path, options) => {
          if (!path.endsWith("/events")) return genuine(path, options);
          window.resumed.push(options.headers["last-event-id"]);
          const error = { message: "Redis is away", code: "store_unavailable" };
          return Promise.resolve(new Response(`data: ${JSON.stringify({ error })}\\n\\n`));
        };
    """)
    server.cut_connections()
    shown = answer(browser, "failed").text
    assert "This answer cannot be continued. Redis is away. Ask again to get a new one." in shown
    resumed = browser.script("return window.resumed")
    assert len(resumed) == 4
    assert re.fullmatch(r"[0-9]+-[0-9a-f]{8}", resumed[0])
    assert len(set(resumed)) == 1
