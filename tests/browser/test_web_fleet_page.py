"""The fleet page in a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.page import Gate, answer, send, start

if TYPE_CHECKING:
    from tests.fixtures.api import Fleet
    from tests.fixtures.browser import Browser


def test_the_fleet_page_shows_workers_and_cancels_jobs(fleet: Fleet, browser: Browser) -> None:
    gate = Gate("word " * 100, 5)
    gate.allowed = 3
    start(fleet, browser, gate, slots=4)
    send(browser, "go on")
    browser.until(lambda: "word" in answer(browser, "open").text)
    browser.one("nav a[href='#/fleet']").click()
    worker = browser.one(".worker")
    assert "tiny" in worker.text
    assert "25 %" in worker.text
    browser.one("button[aria-label^='Cancel job']").click()
    browser.until(lambda: "Nothing runs" in browser.one("#jobs + div").text)
    browser.one("button[aria-label^='Drain']").click()
    assert browser.one("button[aria-label^='Resume']")
    assert len(browser.until(lambda: browser.all(".plot canvas"))) == 3
    browser.one("nav a[href='#/chat']").click()
    assert answer(browser, "stopped")
    assert browser.problems() == []


@pytest.mark.parametrize(("passed_s", "shown"), [(59, "200"), (20, "590"), (3, "100")])
def test_the_present_minutes_rate_is_of_the_seconds_that_were_counted(
    fleet: Fleet, browser: Browser, passed_s: int, shown: str
) -> None:
    """Whenever the page shows it; the beginning of a minute tells too little, so the last one is."""
    start(fleet, browser)
    minutes = [60 * n for n in range(1, 61)]
    row: dict[str, list[Any]] = {
        **dict.fromkeys(("tokens", "prompt_tokens", "answers"), [6_000] * 59 + [11_800]),
        **{f"{kind}_p{share}": [0.5] * 60 for kind in ("ttft", "itl") for share in (50, 95, 99)},
    }
    counted = {"now_s": minutes[-1] + passed_s, "minutes": minutes, "queues": {"": row}}
    browser.script(
        """const genuine = window.fetch;
        window.fetch = (path, ...more) => path === "/admin/fleet/history"
            ? Promise.resolve(new Response(arguments[0])) : genuine(path, ...more);""",
        json.dumps(counted),
    )
    browser.one("nav a[href='#/fleet']").click()
    assert f"answers {shown}" in browser.one(".plot .legend").text
    assert browser.problems() == []
