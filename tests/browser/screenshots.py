"""Makes docs/images/web-*.png: python -m pytest tests/browser/screenshots.py --timeout 900

Not one of the tests, as its name says. A real fleet under load: the API, two real workers with the
demo model, and askers for as long as `MINUTES` (the plots show no more than that of their hour).
"""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.browser.page import answer, send

if TYPE_CHECKING:
    from tests.fixtures.browser import Browser
    from tests.fixtures.processes import Processes

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MINUTES = float(os.environ.get("SCREENSHOT_MINUTES", "12"))
ASKERS = 5
SIZES = {
    "light": (1280, 860, "light"),
    "dark": (1280, 860, "dark"),
    "phone": (390, 844, "light"),
    "phone-dark": (390, 844, "dark"),
}
QUESTIONS = (
    "What is 12 times 7?",
    "What is the capital of France?",
    "Explain continuous batching",
    "What is Penstock?",
    "Which command starts a worker?",
)
ASKED = (
    *QUESTIONS,
    "Tell me a story",
    "List ten facts",
    "Count to twenty",
    "Spell the word harbour",
    "What is the opposite of cold?",
)


def ask_until(url: str, end_s: float, seed: int) -> None:
    """Be a user who asks, reads, thinks and asks again."""
    draw = random.Random(seed)
    with httpx.Client(base_url=url, timeout=120) as http:
        while time.monotonic() < end_s:
            body = {
                "model": draw.choice(("bigdl-demo", "bigdl-demo", "demo")),
                "messages": [{"role": "user", "content": draw.choice(ASKED)}],
                "max_tokens": 300,
                "user": f"user-{seed % 3}",
            }
            with suppress(httpx.HTTPError):
                http.post("/v1/chat/completions", json=body)
            time.sleep(draw.uniform(0.5, 5.0))


def ask_at_once(url: str) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "max_tokens": 300,
        "ignore_eos": True,
    }
    httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)


def take(browser: Browser, page: str) -> None:
    for name, (width, height, scheme) in SIZES.items():
        browser.size(width, height)
        browser.colours(scheme)
        time.sleep(1.0)
        browser.script("document.querySelector('.messages')?.scrollTo(0, 0)")
        time.sleep(0.2)
        browser.driver.save_screenshot(str(IMAGES / f"web-{page}-{name}.png"))
    browser.size(1280, 860)
    browser.colours("light")


def test_screenshots(
    processes: Processes, browser: Browser, redis_url: str, models_dir: Path
) -> None:
    api = processes.start_api(redis_url)
    for queue in ("bigdl-demo-cpu", "demo-cpu"):
        processes.start_worker(queue, redis_url, models_dir, options=("-c", "6"))
    end_s = time.monotonic() + MINUTES * 60
    askers = [
        threading.Thread(target=ask_until, args=(api.url, end_s + 60, seed))
        for seed in range(ASKERS)
    ]
    for asker in askers:
        asker.start()
    browser.open(api.url)
    browser.until(lambda: browser.one("#model").get_attribute("value"))
    for number, question in enumerate(QUESTIONS):
        if number:
            browser.one(".side .primary").click()
        send(browser, question)
        answer(browser)
    send(browser, "Tell me a story")
    time.sleep(3.0)
    take(browser, "chat")
    time.sleep(max(0.0, end_s - time.monotonic()))
    browser.open(f"{api.url}/#/fleet")
    browser.one(".plot canvas")
    time.sleep(3.0)
    take(browser, "fleet")
    # Jobs to be seen: more of the slow model's than it has slots for.
    crowd = [threading.Thread(target=ask_at_once, args=(api.url,)) for _ in range(9)]
    for one in crowd:
        one.start()
    browser.until(lambda: len(browser.all("button[aria-label^='Cancel job']")) > 6)
    browser.script("document.querySelector('main').scrollTo(0, 9999)")
    browser.driver.save_screenshot(str(IMAGES / "web-fleet-tables.png"))
    for asker in (*crowd, *askers):
        asker.join()
