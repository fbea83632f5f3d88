"""What both pages look like: colours, contrast, names, width, keyboard, and nothing from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.page import Gate, answer, send, start

if TYPE_CHECKING:
    from tests.fixtures.api import Fleet
    from tests.fixtures.browser import Browser


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
