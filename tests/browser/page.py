"""Drives the chat page: a worker that answers piece by piece, and what tests do with the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from tests.fixtures.api import speak

if TYPE_CHECKING:
    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script
    from tests.fixtures.browser import Browser

ANSWER = """\
# A *list*
- one
- two

```python
def f(x):
    return "<b>" + x
```

<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2">
[click](javascript:window.hacked=3) ![p](https://elsewhere.invalid/p.png)

| a | b |
|---|---|
| 1 | 2 |

The end.
"""


class Gate:
    """A script that says `ANSWER` piece by piece, up to as many pieces as it is let."""

    def __init__(self, text: str = ANSWER, size: int = 7) -> None:
        self.pieces = [text[at : at + size] for at in range(0, len(text), size)]
        self.allowed = len(self.pieces)

    def __call__(self, job: Job) -> Script:
        for index, piece in enumerate(self.pieces):
            while index >= self.allowed:
                yield None
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=3 if index == 0 else None)
        count = len(self.pieces)
        yield Finished(job.id, count, FinishReason.STOP, Usage(3, count))


def start(fleet: Fleet, browser: Browser, script: Any = speak, **card: Any) -> ApiServer:
    server = fleet.api()
    fleet.worker(script, **card)
    browser.open(server.url + "/")
    browser.until(lambda: browser.one("#model").get_attribute("value") == "tiny")
    return server


def send(browser: Browser, text: str) -> None:
    browser.one("#message").send_keys(text)
    browser.until(lambda: browser.one("button[aria-label=Send]").is_enabled())
    browser.one("button[aria-label=Send]").click()


def answer(browser: Browser, status: str = "done") -> Any:
    return browser.one(f"article.answer[data-status={status}]")
