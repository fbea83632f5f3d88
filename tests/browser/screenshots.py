"""Makes docs/images/web-*.png: python -m pytest tests/browser/screenshots.py

Not one of the tests, as its name says. The worker speaks by a script; the figures of the hour
before are made up, as a fleet that has just been started has none.
"""

from __future__ import annotations

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from penstock.history import bucket_of
from penstock.transport import keys
from penstock.transport.connection import connect
from tests.browser.test_web_page import Gate, answer, send
from tests.fixtures.api import speak

if TYPE_CHECKING:
    from penstock.contract.job import Job
    from penstock.settings import Settings
    from tests.fixtures.api import Fleet, Script
    from tests.fixtures.browser import Browser

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZES = {
    "light": (1280, 860, "light"),
    "dark": (1280, 860, "dark"),
    "phone": (390, 844, "light"),
    "phone-dark": (390, 844, "dark"),
}
QUESTIONS = (
    "What is a penstock, and how much power does it give?",
    "Plan a week in the Alps",
    "Sort a list of tuples in Go",
    "Names for a grey cat",
)
ANSWER = '''\
A **penstock** is a pipe or channel that carries water from a reservoir to a turbine. Its power depends on

1. the *head*: how far the water falls,
2. the flow, in cubic metres a second,
3. the losses to friction.

```python
def power_kw(head_m: float, flow_m3_s: float, efficiency: float = 0.9) -> float:
    """Power of a turbine."""
    # rho * g = 9.81 kN/m3
    return 9.81 * head_m * flow_m3_s * efficiency

print(f"{power_kw(120, 4):.0f} kW")
```

| head (m) | flow (m³/s) | power (kW) |
|---:|---:|---:|
| 120 | 4 | 4238 |
| 60 | 4 | 2119 |

> Long pipes lose more: a wider one pays for itself.
'''


def tell(job: Job) -> Script:
    for index, event in enumerate(Gate(ANSWER, 4)(job)):
        yield event
        if index % 3 == 0:
            yield None


def make_history(settings: Settings, queues: tuple[str, ...]) -> None:
    draw = random.Random(3)
    minute = int(time.time()) // 60
    with connect(settings) as client:
        redis: Any = client
        for ago in range(1, 60):
            load = 1.2 + math.sin(ago / 9) + draw.random() * 0.4
            key = keys.history(minute - ago)
            for queue in queues:
                redis.hincrby(key, f"tokens::{queue}", int(load * 3000))
                redis.hincrby(key, f"prompt_tokens::{queue}", int(load * 1100))
                for _ in range(30):
                    ttft_s = draw.lognormvariate(load / 4 - 1, 0.5)
                    itl_s = draw.lognormvariate(load / 5 - 2.6, 0.3)
                    redis.hincrby(key, f"ttft:{bucket_of(ttft_s)}:{queue}", 1)
                    redis.hincrby(key, f"itl:{bucket_of(itl_s)}:{queue}", 1)
            redis.expire(key, 600)


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


def test_screenshots(fleet: Fleet, browser: Browser) -> None:
    IMAGES.mkdir(exist_ok=True)
    server = fleet.api()
    slow = fleet.worker(
        tell, slots=4, format="sym_int4", weights_bytes=3_900_000_000, name="bigdl-7b",
        queue="bigdl-7b-cpu", context_length=8192, aliases=(),
    )  # fmt: skip
    slow.step_s = 0.02
    browser.open(server.url)
    browser.until(lambda: browser.one("#model").get_attribute("value"))
    for number, question in enumerate(QUESTIONS[::-1]):
        if number:
            browser.one(".side .primary").click()
        send(browser, question)
        answer(browser)
    take(browser, "chat")

    queues = ("bigdl-7b-cpu", "qwen-14b-xpu")
    make_history(fleet.settings, queues)
    fleet.worker(
        speak, slots=32, format="bf16", weights_bytes=28_000_000_000, name="qwen-14b",
        queue="qwen-14b-xpu", device="xpu", backend="openvino", aliases=(),
    )  # fmt: skip
    slow.step_s = 0.5
    body = {"model": "bigdl-7b", "messages": [{"role": "user", "content": "x"}]}
    with ThreadPoolExecutor(6) as askers:
        for _ in range(6):
            askers.submit(httpx.post, f"{server.url}/v1/chat/completions", json=body, timeout=120)
        browser.open(f"{server.url}/#/fleet")
        browser.one(".plot canvas")
        time.sleep(3.0)
        take(browser, "fleet")
        browser.script("document.querySelector('main').scrollTo(0, 9999)")
        time.sleep(0.5)
        browser.driver.save_screenshot(str(IMAGES / "web-fleet-tables.png"))
        slow.step_s = 0.001
