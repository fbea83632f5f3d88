"""The page in a real browser, before the real API and real workers, one of which is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from tests.browser.page import answer, send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.browser import Browser
    from tests.fixtures.processes import Processes

QUEUE = "tiny-llama-cpu"
MODEL = "tiny-llama"
TOKENS = 1500


def ask_for(browser: Browser, tokens: int) -> None:
    browser.one("button[aria-label=Parameters]").click()
    for title, value in (("Temperature", "0"), ("Longest answer", str(tokens))):
        field = browser.driver.find_element("xpath", f"//label[contains(., '{title}')]/input")
        field.send_keys(value)


def content(browser: Browser) -> str:
    """Return the answer as the page keeps it, before Markdown."""
    return browser.script(
        """const name = Object.keys(localStorage).find((k) => k.includes(".conversation."));
        return JSON.parse(localStorage.getItem(name)).messages.at(-1).content"""
    )


def undisturbed(url: str, tokens: int = TOKENS) -> str:
    request: dict[str, Any] = {
        "model": MODEL, "temperature": 0, "max_tokens": tokens,
        "messages": [{"role": "user", "content": "hello"}],
    }  # fmt: skip
    reply = httpx.post(f"{url}/v1/chat/completions", json=request, timeout=60).json()
    return reply["choices"][0]["message"]["content"]


def test_a_killed_worker_and_a_reload_in_mid_answer_lose_nothing(
    processes: Processes, browser: Browser, redis_url: str, models_dir: Path
) -> None:
    api = processes.start_api(redis_url)
    worker = processes.start_worker(QUEUE, redis_url, models_dir)
    browser.open(api.url)
    browser.until(lambda: browser.one("#model").get_attribute("value") == MODEL)
    ask_for(browser, TOKENS)
    send(browser, "hello")
    browser.until(lambda: answer(browser, "open").text)
    worker.kill()
    browser.driver.refresh()
    assert answer(browser, "open")
    another = processes.start_worker(QUEUE, redis_url, models_dir)
    answer(browser, "done")
    assert content(browser) == undisturbed(api.url)

    browser.open(f"{api.url}/#/fleet")
    shown = browser.until(
        lambda: [one for one in browser.all(".worker") if str(another.pid) in one.text]
    )
    assert MODEL in shown[0].text
    button = f"button[aria-label$=' {another.pid}']"
    browser.one(button).click()
    browser.until(lambda: "drained\nResume" in browser.one(".worker").text)
    browser.one(button).click()
    browser.until(lambda: "live" in browser.one(".worker .badge").text)
    assert undisturbed(api.url, tokens=4)
