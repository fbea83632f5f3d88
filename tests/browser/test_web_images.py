"""Images on the chat page."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.browser.page import answer, send, start
from tests.fixtures.api import chat_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.api import Fleet
    from tests.fixtures.browser import Browser

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
