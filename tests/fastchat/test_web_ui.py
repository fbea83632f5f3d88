"""FastChat's web UI, unmodified, on our fleet, with a person at a browser."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fastchat.browser import Browser, WebUI
from tests.fastchat.conftest import MODEL
from tests.fastchat.programs import WEB_UI
from tests.fixtures.processes import wait_until

if TYPE_CHECKING:
    from tests.fastchat.conftest import FastChat
    from tests.fixtures.processes import Running

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")


def start(fastchat: FastChat, *options: str) -> Running:
    url = fastchat.api.url
    return fastchat.serve(WEB_UI, "gradio_web_server", "/", "--controller-url", url, *options)


@pytest.fixture(scope="module")
def server(fastchat: FastChat) -> Running:
    return start(fastchat, "--model-list-mode", "reload")


@pytest.fixture
def page(server: Running, browser: Browser) -> WebUI:
    opened = WebUI(browser, server.url)
    opened.limit(192)
    return opened


def idle(fastchat: FastChat) -> bool:
    return httpx.post(f"{fastchat.api.url}/worker_get_status").json()["queue_length"] == 0


def clients_gone(fastchat: FastChat) -> float:
    """Return how many answers the API has given up because nobody read them any more."""
    said = httpx.get(f"{fastchat.api.url}/metrics").text
    found = re.search(
        r'^penstock_request_errors_total{code="client_gone"} (\S+)$', said, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_a_conversation(page: WebUI) -> None:
    assert page.chosen_model() == MODEL
    assert page.models() == [MODEL]
    page.send("Where does the water flow?")
    begun = page.growing()
    further = page.growing(beyond=len(begun) + 10)
    assert len(further) > len(begun)
    first = page.whole()
    assert "NETWORK ERROR" not in first
    assert [who for who, _ in page.messages()] == ["user", "bot"]

    page.send("And then?")
    wait_until(lambda: len(page.messages()) == 4 and page.answer(), 60.0)
    second = page.whole()
    shown = page.messages()
    assert [who for who, _ in shown] == ["user", "bot", "user", "bot"]
    assert shown[1][1] == first

    page.click("Regenerate")
    wait_until(lambda: page.answer() != second, 60.0)
    third = page.whole()
    assert "NETWORK ERROR" not in third
    assert third != second  # sampled again
    assert [who for who, _ in page.messages()] == ["user", "bot", "user", "bot"]

    page.click("Clear")
    wait_until(lambda: page.messages() == [], 20.0)


def test_a_person_who_closes_the_page_frees_the_slot(
    fastchat: FastChat, page: WebUI, browser: Browser
) -> None:
    page.limit(2048)
    page.send("Tell me everything.")
    wait_until(lambda: not idle(fastchat))
    page.growing()
    before = clients_gone(fastchat)
    browser.open("about:blank")
    wait_until(lambda: clients_gone(fastchat) == before + 1, 60.0)
    wait_until(lambda: idle(fastchat), 60.0)


def test_the_worker_dies_in_mid_answer(fastchat: FastChat, page: WebUI) -> None:
    page.limit(1024)
    page.send("Tell me a long story.")
    begun = page.growing().rstrip("▌")
    fastchat.worker.kill()
    fastchat.start_worker(wait=False)
    whole = page.whole()
    assert "NETWORK ERROR" not in whole
    assert "error_code" not in whole
    assert len(whole) > len(begun) + 100


def test_the_list_of_models_is_loaded_once(fastchat: FastChat, browser: Browser) -> None:
    page = WebUI(browser, start(fastchat, "--model-list-mode", "once").url)
    assert page.chosen_model() == MODEL
    page.limit(96)
    page.send("Hello")
    page.growing()


def test_our_openai_endpoint_as_an_api_provider(
    fastchat: FastChat, browser: Browser, tmp_path: Path
) -> None:
    provider = {
        "penstock": {
            "model_name": MODEL,
            "api_base": f"{fastchat.api.url}/v1",
            "api_type": "openai",
            "api_key": "none",
            "anony_only": False,
        }
    }
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text(json.dumps(provider))
    running = fastchat.serve(
        WEB_UI, "gradio_web_server", "/",
        "--controller-url", "", "--register-api-endpoint-file", str(endpoints),
    )  # fmt: skip
    page = WebUI(browser, running.url)
    assert page.chosen_model() == "penstock"
    page.limit(96)
    page.send("Hello")
    page.growing()
    assert "NETWORK ERROR" not in page.whole()


def test_the_demo_model_as_the_docs_show_it(
    fastchat: FastChat, browser: Browser, tmp_path: Path
) -> None:
    """FastChat knows nothing of its name: its default template is turned back into the chat."""
    redis_url = fastchat.redis_url.rpartition("/")[0] + "/2"
    demo = type(fastchat)(fastchat.processes, redis_url, tmp_path / "models", model="bigdl-demo")
    page = WebUI(browser, start(demo, "--model-list-mode", "reload").url)
    assert page.chosen_model() == "bigdl-demo"
    for turn, question in enumerate(("What is Penstock?", "Which port does the API use?"), 1):
        page.send(question)
        wait_until(lambda turn=turn: len(page.messages()) == 2 * turn and page.answer(), 60.0)
        page.whole()
    assert "serving" in page.messages()[1][1]
    assert "8000" in page.answer()
    if folder := os.environ.get("PENSTOCK_SCREENSHOTS"):
        (Path(folder) / "fastchat-web-ui.png").write_bytes(browser.screenshot())
    demo.api.kill()
    demo.worker.stop()
