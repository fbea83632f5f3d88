"""The page in a real browser, before the real API and a worker that speaks by a script."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.errors import EngineFailed
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from tests.fixtures.api import chat_of, speak

if TYPE_CHECKING:
    from pathlib import Path

    import redis

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


def test_an_answer_streams_as_clean_markdown_with_its_figures(
    fleet: Fleet, browser: Browser
) -> None:
    gate = Gate()
    gate.allowed = 3
    start(fleet, browser, gate)
    send(browser, "hello *you*")
    browser.until(lambda: "two" not in answer(browser, "open").text and browser.all(".markdown h1"))
    assert browser.one("button[aria-label='Stop the answer']")
    gate.allowed = len(gate.pieces)
    done = answer(browser)
    assert browser.texts(".bubble") == ["hello *you*"]
    assert browser.texts(".markdown li") == ["one", "two"]
    assert [cell.text for cell in browser.all(".markdown td")] == ["1", "2"]
    assert browser.texts(".code-bar span") == ["python"]
    assert browser.all(".code .hljs-keyword")
    assert 'return "<b>" + x' in browser.one(".code pre").text
    assert browser.script("return window.hacked") is None
    assert not browser.all(".markdown :is(img, script)")
    assert not browser.all(".markdown a[href^=javascript]")
    assert f"{len(gate.pieces)} tokens" in done.text
    assert "tokens/s" in done.text
    assert "TTFT" in done.text
    assert browser.problems() == []


def test_stop_ask_again_and_edit(fleet: Fleet, browser: Browser) -> None:
    gate = Gate("word " * 400, 5)
    gate.allowed = 10
    server = fleet.api()
    worker = fleet.worker(gate)
    browser.open(server.url)
    send(browser, "first")
    browser.until(lambda: "word word" in answer(browser, "open").text)
    browser.one("button[aria-label='Stop the answer']").click()
    assert answer(browser, "stopped")
    browser.until(lambda: list(worker.dropped.values()) == ["cancelled"])
    gate.pieces = gate.pieces[:3]
    browser.one("button[aria-label='Ask again']").click()
    assert "word word word" in answer(browser).text
    assert len(worker.jobs) == 2
    browser.one("button[aria-label=Edit]").click()
    browser.one("textarea[aria-label='Your message']").send_keys(" and more")
    browser.one(".editing .primary").click()
    browser.until(lambda: len(worker.jobs) == 3)
    assert chat_of(worker.jobs[2]).messages[-1]["content"] == "first and more"
    assert answer(browser)
    assert browser.texts(".bubble") == ["first and more"]


def test_parameters_and_the_system_prompt_reach_the_worker(fleet: Fleet, browser: Browser) -> None:
    server = fleet.api()
    worker = fleet.worker()
    browser.open(server.url)
    browser.one("button[aria-label=Parameters]").click()
    browser.one(".system textarea").send_keys("be brief")
    for title, value in (("Temperature", "0.3"), ("Longest answer", "3"), ("Seed", "7")):
        browser.driver.find_element("xpath", f"//label[contains(., '{title}')]/input").send_keys(
            value
        )
    send(browser, "hello")
    assert "once upon a" in answer(browser).text
    assert "Cut off" in answer(browser).text
    (job,) = worker.jobs
    assert [m["role"] for m in chat_of(job).messages] == ["system", "user"]
    sampling = job.work.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.3, 3, 7)


def test_a_reload_in_mid_answer_shows_the_whole_answer(fleet: Fleet, browser: Browser) -> None:
    gate = Gate("".join(f"{n} " for n in range(200)), 3)
    gate.allowed = 20
    start(fleet, browser, gate)
    send(browser, "count")
    browser.until(lambda: "10 11" in answer(browser, "open").text)
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
    gate = Gate("".join(f"{n} " for n in range(100)), 3)
    gate.allowed = 20
    server = start(fleet, browser, gate)
    send(browser, "count")
    browser.until(lambda: "10 11" in answer(browser, "open").text)
    browser.offline(yes=True)  # of new connections; those that are open must be cut
    server.cut_connections()
    browser.until(lambda: "Connection lost" in answer(browser, "open").text)
    gate.allowed = len(gate.pieces)
    browser.offline(yes=False)
    assert "".join(gate.pieces).strip() in answer(browser).text


def test_only_models_that_generate_are_offered(fleet: Fleet, browser: Browser) -> None:
    fleet.worker(name="embedder", queue="embedder-cpu", capabilities=("embed",), aliases=())
    start(fleet, browser)
    offered = [one.get_attribute("value") for one in browser.all("#model option")]
    assert "tiny" in offered
    assert "embedder" not in offered


def test_a_key_is_offered_its_own_models(
    fleet: Fleet, browser: Browser, redis_client: redis.Redis
) -> None:
    _, secret = KeyDesk(redis_client, 5.0).make("ann", models=("tiny",))
    try:
        server = fleet.api()
        fleet.worker(name="other", queue="other-cpu", aliases=())
        fleet.worker()
        browser.open(server.url)
        browser.one("#key-field").send_keys(f"{secret}\n")
        browser.until(lambda: browser.one("#model").get_attribute("value") == "org/tiny")
        offered = {one.get_attribute("value") for one in browser.all("#model option")}
        assert offered == {"tiny", "org/tiny"}
        send(browser, "hello")
        assert "once upon a time" in answer(browser).text
    finally:
        redis_client.delete(keys.API_KEYS)


def test_several_conversations_are_kept_and_deleted(fleet: Fleet, browser: Browser) -> None:
    start(fleet, browser)
    send(browser, "the first")
    answer(browser)
    browser.one(".side .primary").click()
    browser.one(".welcome")
    send(browser, "the second")
    answer(browser)
    browser.driver.refresh()
    browser.until(lambda: browser.texts(".side .title") == ["the second", "the first"])
    browser.all(".side .title")[1].click()
    browser.until(lambda: browser.texts(".bubble") == ["the first"])
    browser.script("window.confirm = () => true")
    browser.script("document.querySelector('[aria-label=\"Delete the first\"]').click()")
    browser.until(lambda: browser.texts(".side .title") == ["the second"])


def test_an_error_is_reported(fleet: Fleet, browser: Browser) -> None:
    def fail(job: Job) -> Script:
        yield Tokens(job.id, 0, (0,), "half ", prompt_tokens=3)
        yield Failed(job.id, 1, EngineFailed.code, "the engine broke")

    start(fleet, browser, fail)
    send(browser, "go")
    failed = answer(browser, "failed")
    assert "half" in failed.text
    assert "the engine broke" in failed.text


def test_the_key_is_requested_and_kept_for_the_tab(fleet: Fleet, browser: Browser) -> None:
    server = fleet.api(api_keys=("secret",))
    fleet.worker()
    browser.open(server.url)
    field = browser.one("#key-field")
    field.send_keys("secret\n")
    browser.until(lambda: browser.one("#model").get_attribute("value") == "tiny")
    send(browser, "hello")
    assert "once upon a time" in answer(browser).text
    assert browser.script("return Object.values(localStorage).join()").find("secret") < 0
    browser.driver.refresh()
    browser.until(lambda: browser.one("#model").get_attribute("value") == "tiny")


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


def test_colours_follow_the_system_and_the_button(fleet: Fleet, browser: Browser) -> None:
    start(fleet, browser)

    def ground() -> str:
        return browser.script("return getComputedStyle(document.body).backgroundColor")

    light = ground()
    browser.colours("dark")
    dark = browser.until(lambda: ground() != light and ground())
    browser.one(
        "button[aria-label='Use light colours'], button[aria-label='Use dark colours']"
    ).click()
    assert browser.until(lambda: ground() != dark)
    browser.driver.refresh()
    assert ground() == light


def test_every_control_has_a_name_and_no_page_is_wider_than_a_phone(
    fleet: Fleet, browser: Browser
) -> None:
    start(fleet, browser)
    browser.one("button[aria-label=Parameters]").click()
    for page in ("chat", "fleet"):
        browser.open(f"{browser.script('return location.origin')}/#/{page}")
        browser.one("main." + page)
        nameless = browser.script(
            """return [...document.querySelectorAll("button, input, select, textarea, a, meter")]
            .filter((e) => !e.ariaLabel && !e.labels?.length && !e.textContent.trim())
            .map((e) => e.outerHTML)"""
        )
        assert nameless == []
        browser.size(390, 780)
        assert browser.script("return document.documentElement.scrollWidth") <= 390
        browser.size(1280, 860)


FAINT = """
const colour = (text) => {
  const found = text.match(/[\\d.]+/g).map(Number);
  return { rgb: found.slice(0, 3), alpha: found[3] ?? 1 };
};
const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]].reduce((sum, [v, share]) => {
  const s = v / 255;
  return sum + share * (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4);
}, 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const { rgb, alpha } = colour(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return rgb;
  }
  return colour(getComputedStyle(document.body).backgroundColor).rgb;
};
const ratio = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const speaks = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const found = [];
let looked = 0;
for (const element of document.querySelectorAll("#app *")) {
  if (!element.checkVisibility({ opacityProperty: true }) || element.closest(":disabled, .unseen")) continue;
  const styles = element.placeholder ? [getComputedStyle(element, "::placeholder")] : [];
  if (speaks(element)) styles.push(getComputedStyle(element));
  for (const { color } of styles) {
    looked += 1;
    const contrast = ratio(colour(color).rgb, ground(element));
    if (contrast < 4.5) found.push([element.outerHTML.slice(0, 120), contrast]);
  }
}
return { found, looked };
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(fleet: Fleet, browser: Browser, scheme: str) -> None:
    """WCAG 2.2, AA: 4.5 to 1."""
    server = start(fleet, browser, Gate())
    browser.colours(scheme)
    browser.one("button[aria-label=Parameters]").click()
    send(browser, "hello")
    answer(browser)
    for page in ("chat", "fleet"):
        browser.open(f"{server.url}/#/{page}")
        browser.one(".worker" if page == "fleet" else ".answer .hljs-keyword")
        seen = browser.script(FAINT)
        assert seen["looked"] > 15
        assert seen["found"] == []


def test_nothing_comes_from_elsewhere(fleet: Fleet, browser: Browser) -> None:
    server = start(fleet, browser, Gate())
    send(browser, "hello")
    answer(browser)
    browser.open(f"{server.url}/#/fleet")
    browser.one(".plot canvas")
    came = browser.script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert any("uplot" in name for name in came)
    assert [name for name in came if not name.startswith(server.url)] == []


def test_the_keyboard_is_enough(fleet: Fleet, browser: Browser) -> None:
    """One may write at once, Enter sends; Tab goes to every control and shows where it is."""
    from selenium.webdriver import ActionChains, Keys

    server = start(fleet, browser)
    browser.until(lambda: browser.driver.switch_to.active_element.get_attribute("id") == "message")
    browser.driver.switch_to.active_element.send_keys("hello", Keys.ENTER)
    answer(browser)
    browser.open(f"{server.url}/#/fleet")
    browser.driver.refresh()  # forgets where the mouse has been
    browser.one(".worker")
    reached: list[str] = []
    for _ in range(20):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        name, outline = browser.script(
            """const at = document.activeElement;
            return at === document.body ? ["", ""]
                : [(at.ariaLabel || at.textContent).trim(), getComputedStyle(at).outlineStyle]"""
        )
        if not name:  # round, and out of the page
            break
        assert outline == "solid", name
        reached.append(name)
    assert reached[0] == "Skip to content"
    assert {"Chat", "Fleet", "API key"} <= set(reached)
    assert any(name.startswith("Drain") for name in reached)


PICTURE = """
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = arguments[0];
    canvas.getContext("2d").fillRect(0, 0, 9, 9);
    const url = canvas.toDataURL("image/png");
    const bytes = Uint8Array.from(atob(url.split(",")[1]), (one) => one.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
"""
PASTE = f"""{PICTURE}
    document.querySelector("#message").dispatchEvent(
        new ClipboardEvent("paste", {{ clipboardData: transfer, bubbles: true, cancelable: true }}));
"""
DROP = f"""{PICTURE}
    document.querySelector(".composer").dispatchEvent(
        new DragEvent("drop", {{ dataTransfer: transfer, bubbles: true, cancelable: true }}));
"""


def test_images_are_pasted_dropped_chosen_and_removed(
    fleet: Fleet, browser: Browser, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    server = fleet.api()
    worker = fleet.worker(capabilities=("generate", "image"))
    browser.open(server.url)
    browser.one("button[aria-label='Add images']")
    file = tmp_path / "chosen.jpg"
    pillow.new("RGB", (30, 40)).save(file)
    browser.script(PASTE, [2600, 10])
    browser.until(lambda: len(browser.all(".composer .pictures img")) == 1)
    browser.script(DROP, [20, 10])
    browser.until(lambda: len(browser.all(".composer .pictures img")) == 2)
    browser.all("#pictures")[0].send_keys(str(file))
    browser.until(lambda: len(browser.all(".composer .pictures img")) == 3)
    browser.one("button[aria-label='Remove image 2']").click()
    browser.until(lambda: len(browser.all(".composer .pictures img")) == 2)
    send(browser, "what are they?")
    answer(browser)
    assert len(browser.all(".asked .pictures img")) == 2
    assert browser.all(".composer .pictures img") == []
    shown = "return [...document.querySelectorAll('.asked img')].map((one) => one.naturalWidth)"
    assert browser.script(shown) == [1280, 30]  # made small, and upright
    (content,) = [message["content"] for message in chat_of(worker.jobs[-1]).messages]
    assert [part["type"] for part in content] == ["image", "image", "text"]

    # They stay with the conversation, after a reload too.
    browser.driver.refresh()
    browser.until(lambda: len(browser.all(".asked .pictures img")) == 2)
    send(browser, "and now?")
    browser.until(lambda: len(browser.all("article.answer[data-status=done]")) == 2)
    assert chat_of(worker.jobs[-1]).images == chat_of(worker.jobs[-2]).images
    browser.script(PASTE, [20, 10])  # an image alone
    browser.until(lambda: browser.one("button[aria-label=Send]").is_enabled())
    browser.one("button[aria-label=Send]").click()
    browser.until(lambda: len(browser.all("article.answer[data-status=done]")) == 3)
    assert browser.problems() == []


def test_a_large_transparent_image_gets_a_white_ground(
    fleet: Fleet, browser: Browser, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    server = fleet.api()
    fleet.worker(capabilities=("generate", "image"))
    browser.open(server.url)
    browser.one("button[aria-label='Add images']")
    picture = pillow.new("RGBA", (600, 600), (0, 0, 0, 0))
    noise = pillow.frombytes("RGB", (300, 600), random.Random(1).randbytes(3 * 300 * 600))
    picture.paste(noise, (0, 0))  # too many bytes for a PNG
    picture.save(tmp_path / "half.png")
    browser.all("#pictures")[0].send_keys(str(tmp_path / "half.png"))
    browser.until(lambda: len(browser.all(".composer .pictures img")) == 1)
    url, pixel = browser.script("""
        const image = document.querySelector(".composer .pictures img");
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return [image.src.slice(0, 15), [...context.getImageData(590, 10, 1, 1).data]];
    """)
    assert url == "data:image/jpeg"
    assert min(pixel) > 250


def test_images_for_a_model_that_takes_text_only(fleet: Fleet, browser: Browser) -> None:
    start(fleet, browser)
    browser.script(PASTE, [20, 10])
    assert browser.one(".composer [role=alert]").text == "This model takes text only."
    assert browser.all(".composer .pictures img, button[aria-label='Add images']") == []
    send(browser, "words")
    answer(browser)
    assert browser.all(".composer [role=alert]") == []
    assert browser.problems() == []
