"""Images through FastChat's own programs, unmodified: its OpenAI server and its web UI."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.fastchat.browser import Browser, VisionUI
from tests.fastchat.conftest import FastChat
from tests.fastchat.programs import OPENAI_SERVER, WEB_UI
from tests.fixtures import vision
from tests.fixtures.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types import CompletionUsage

pytest.importorskip("PIL", reason="Pillow is not installed")
pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MODEL = "llava"
PICTURES = vision.picture(1), vision.picture(2, kind="JPEG")


@pytest.fixture(scope="module")
def seeing(fastchat: FastChat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastChat]:
    """A fleet whose model takes images."""
    folder = tmp_path_factory.mktemp("seeing")
    vision.write("llava", folder / "models" / MODEL)
    redis_url = fastchat.redis_url.rpartition("/")[0] + "/3"
    fleet = FastChat(fastchat.processes, redis_url, folder / "models", model=MODEL)
    yield fleet
    fleet.api.kill()
    fleet.worker.stop()


def chat(*pictures: bytes) -> Any:
    urls = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in pictures]
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": "What is it?"}]}]


def counts(usage: CompletionUsage | None) -> tuple[int, int, int]:
    """Tokens of the prompt, of the answer, of both; FastChat's server knows no details of them."""
    assert usage
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def test_fastchats_openai_server(seeing: FastChat) -> None:
    server = seeing.serve(
        OPENAI_SERVER, "openai_api_server", "/v1/models", "--controller-address", seeing.api.url
    )
    greedy: Any = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    for pictures in (PICTURES[:1], PICTURES[1:], PICTURES):
        answers: list[tuple[str | None, int]] = []
        for url in (server.url, seeing.api.url):
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                answer = client.chat.completions.create(**greedy, messages=chat(*pictures))
                assert answer.usage
                answers.append((answer.choices[0].message.content, answer.usage.prompt_tokens))
        assert answers[0][0]
        assert answers[0] == answers[1]


def test_a_real_controller_lists_and_serves_workers_with_and_without_images(
    fastchat: FastChat, seeing: FastChat
) -> None:
    controller = fastchat.serve(OPENAI_SERVER, "controller", "/test_connection")
    apis = [fastchat.join(controller), seeing.join(controller)]

    def listed(kind: str) -> list[str]:
        return sorted(httpx.post(f"{controller.url}/list_{kind}").json()["models"])

    apis[0].wait_until(lambda: listed("models") == sorted([MODEL, fastchat.model]))
    assert listed("multimodal_models") == [MODEL]
    assert listed("language_models") == [fastchat.model]
    server = fastchat.serve(
        OPENAI_SERVER, "openai_api_server", "/v1/models", "--controller-address", controller.url
    )
    greedy: Any = {"temperature": 0, "max_tokens": 8}
    words: Any = [{"role": "user", "content": "What is it?"}]
    asked = {MODEL: chat(*PICTURES), fastchat.model: words}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for fleet in (fastchat, seeing):
            through = client.chat.completions.create(
                model=fleet.model, messages=asked[fleet.model], **greedy
            )
            with openai.OpenAI(base_url=f"{fleet.api.url}/v1", api_key="none") as direct:
                own = direct.chat.completions.create(
                    model=fleet.model, messages=asked[fleet.model], **greedy
                )
            assert through.choices[0].message.content == own.choices[0].message.content
            assert counts(through.usage) == counts(own.usage)
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model=fastchat.model, messages=asked[MODEL], **greedy)
        assert "text only" in str(refused.value)
    for one in (*apis, server, controller):
        one.kill()


def test_an_upload_in_the_web_ui(seeing: FastChat, browser: Browser, tmp_path: Path) -> None:
    running = seeing.serve(
        WEB_UI, "gradio_web_server_multi", "/",
        "--controller-url", seeing.api.url, "--model-list-mode", "reload", "--multimodal",
    )  # fmt: skip
    page = VisionUI(browser, f"{running.url}/?vision")
    for number, picture in enumerate(PICTURES):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture)
        page.upload(path)
        page.send(f"What is in picture {number}?")
        wait_until(lambda: page.answer() and not page.answer().endswith("▌"), 60.0)
        assert "NETWORK ERROR" not in page.answer()
        assert page.pictures() == 1
        if folder := os.environ.get("PENSTOCK_SCREENSHOTS"):
            (Path(folder) / "fastchat-web-ui-images.png").write_bytes(browser.screenshot())
        page.click("Clear")
        wait_until(lambda: page.messages() == [], 20.0)
