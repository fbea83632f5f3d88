"""Headless Chromium, spoken to as W3C WebDriver has it, and FastChat's web UI inside of it."""

from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import httpx

from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--window-size=1280,1100", "--no-first-run",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""WebDriver's name of an element's reference."""


def missing() -> str:
    """Return what is not there to drive a browser, or nothing."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} (apt install chromium chromium-driver)" if absent else ""


class Browser:
    """One headless Chromium with one window."""

    def __init__(self, folder: Path) -> None:
        port = find_free_port()
        self._log = (folder / "chromedriver.log").open("wb")
        command = [str(shutil.which("chromedriver")), f"--port={port}"]
        self._driver = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0)
        wait_until(self._ready, 30.0)
        chrome = {
            "binary": shutil.which("chromium"),
            "args": [*OPTIONS, f"--user-data-dir={folder / 'profile'}"],
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome}
        session = self._call("POST", "/session", capabilities={"alwaysMatch": wanted})
        self._session = f"/session/{session['sessionId']}"

    def _ready(self) -> bool:
        try:
            return self._http.get("/status").json()["value"]["ready"]
        except httpx.TransportError:
            return False

    def _call(self, method: str, path: str, **body: Any) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", url=url)

    def evaluate(self, script: str, *arguments: Any) -> Any:
        """Run the body of a JavaScript function."""
        return self._call("POST", f"{self._session}/execute/sync", script=script, args=arguments)

    def type(self, selector: str, text: str) -> None:
        """Type into the one element of a selector, as a person would."""
        found = self._call("POST", f"{self._session}/element", using="css selector", value=selector)
        self._call("POST", f"{self._session}/element/{found[ELEMENT]}/value", text=text)

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("GET", f"{self._session}/screenshot"))

    def close(self) -> None:
        try:
            self._http.delete(self._session)
        finally:
            self._http.close()
            self._driver.terminate()
            self._driver.wait(20.0)
            self._log.close()


PROMPT_BOX = "textarea[placeholder*='Enter your prompt']"
MESSAGES = """
    return [...document.querySelectorAll('[data-testid=user], [data-testid=bot]')]
        .map(one => [one.dataset.testid, one.innerText.trim()])
"""
CLICK = """
    const button = [...document.querySelectorAll('button')]
        .find(one => one.innerText.includes(arguments[0]) && !one.disabled);
    if (button) button.click();
    return Boolean(button);
"""
ENABLED = """
    return [...document.querySelectorAll('button')]
        .some(one => one.innerText.includes(arguments[0]) && !one.disabled)
"""
LIMIT = """
    const label = [...document.querySelectorAll('.block')]
        .find(one => one.innerText.startsWith('Max output tokens')
            || one.textContent.trim().startsWith('Max output tokens'));
    const input = label && label.querySelector('input[type=number]');
    if (!input) return false;
    const setter = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
    setter.call(input, arguments[0]);
    for (const kind of ['input', 'change', 'blur', 'pointerup'])
        input.dispatchEvent(new Event(kind, {bubbles: true}));
    return true;
"""
CURSOR = "▌"
"""What the web UI shows at the end of an answer that still grows."""


class WebUI:
    """FastChat's web UI in a browser."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        browser.open(url)
        wait_until(
            lambda: browser.evaluate(f'return document.querySelector("{PROMPT_BOX}") != null'), 60.0
        )

    def chosen_model(self) -> str:
        script = "return document.querySelector('#model_selector_row input').value"
        return wait_until(lambda: self._browser.evaluate(script), 30.0)

    def models(self) -> list[str]:
        """Open the list of models and return it."""
        focus = "document.querySelector('#model_selector_row input').focus()"
        options = "return [...document.querySelectorAll('ul.options li')].map(one => one.innerText.replace('✓', '').trim())"
        self._browser.evaluate(focus)
        shown = wait_until(lambda: self._browser.evaluate(options), 10.0)
        self._browser.evaluate("document.activeElement.blur()")
        return shown

    def limit(self, tokens: int) -> None:
        """Set how long an answer may be."""
        wait_until(lambda: self._browser.evaluate(LIMIT, tokens), 10.0)

    def messages(self) -> list[tuple[str, str]]:
        """Return (`user` or `bot`, text) of each message that is shown."""
        return [(who, text) for who, text in self._browser.evaluate(MESSAGES)]

    def answer(self) -> str:
        """Return the last message's text."""
        shown = self.messages()
        return shown[-1][1] if shown and shown[-1][0] == "bot" else ""

    def send(self, text: str) -> None:
        self._browser.type(PROMPT_BOX, text)
        self.click("Send")

    def click(self, label: str) -> None:
        wait_until(lambda: self._browser.evaluate(CLICK, label), 30.0)

    def growing(self, *, beyond: int = 0) -> str:
        """Return the answer as soon as it is longer than `beyond` and still grows."""
        return wait_until(
            lambda: (
                text if len(text := self.answer()) > beyond + 1 and text.endswith(CURSOR) else ""
            ),
            60.0,
        )

    def whole(self, timeout_s: float = 90.0) -> str:
        """Return the answer once it has ended."""
        wait_until(
            lambda: (
                self._browser.evaluate(ENABLED, "Regenerate") and not self.answer().endswith(CURSOR)
            ),
            timeout_s,
        )
        return self.answer()


VISION_TAB = """
    const tab = [...document.querySelectorAll('button[role=tab]')]
        .find(one => one.innerText.includes('Vision-Language'));
    if (tab) tab.click();
    return Boolean(tab);
"""
IN_TAB = """
    const tab = [...document.querySelectorAll('[role=tabpanel]')]
        .find(one => one.querySelector('#input_box') && one.querySelector('input[type=file]')
            && one.offsetParent !== null);
    if (!tab) return null;
"""


class VisionUI(WebUI):
    """The tab of FastChat's web UI where a picture may be uploaded."""

    def __init__(self, browser: Browser, url: str) -> None:
        super().__init__(browser, url)
        wait_until(lambda: browser.evaluate(VISION_TAB), 30.0)
        wait_until(lambda: browser.evaluate(f"{IN_TAB} return true"), 30.0)

    def upload(self, path: Path) -> None:
        """Choose a picture, as a person would in the dialogue of the browser."""
        script = f"{IN_TAB} tab.querySelector('input[type=file]').id = 'chosen'; return true"
        wait_until(lambda: self._browser.evaluate(script), 10.0)
        self._browser.type("#chosen", str(path))
        shown = f"{IN_TAB} return tab.querySelector('img[src*=\"{path.name}\"]') !== null"
        wait_until(lambda: self._browser.evaluate(shown), 30.0)

    def messages(self) -> list[tuple[str, str]]:
        inside = MESSAGES.replace("document.", "tab.")
        return [(who, text) for who, text in self._browser.evaluate(IN_TAB + inside) or []]

    def pictures(self) -> int:
        """Return how many pictures the conversation shows."""
        return self._browser.evaluate(
            f"{IN_TAB} return tab.querySelectorAll('[data-testid=user] img').length"
        )

    def send(self, text: str) -> None:
        script = f"{IN_TAB} tab.querySelector('#input_box textarea').id = 'typed'; return true"
        wait_until(lambda: self._browser.evaluate(script), 10.0)
        self._browser.type("#typed", text)
        self.click("Send")

    def click(self, label: str) -> None:
        inside = CLICK.replace("document.", "tab.")
        wait_until(lambda: self._browser.evaluate(IN_TAB + inside, label), 30.0)
