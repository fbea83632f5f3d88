"""The chat page in a real browser, before the real API and a worker that speaks by a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.contract.events import Failed, Tokens
from penstock.errors import EngineFailed
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from tests.browser.page import Gate, answer, send, start
from tests.fixtures.api import chat_of

if TYPE_CHECKING:
    import redis

    from penstock.contract.job import Job
    from tests.fixtures.api import Fleet, Script
    from tests.fixtures.browser import Browser


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
