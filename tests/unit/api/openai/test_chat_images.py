"""Images of a chat request: from URLs to digests and bytes."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import pytest

from api.http.warnings import Warnings
from api.openai import chat_images
from api.openai.chat_images import (
    IMAGE_LEFT_OUT,
    MOST_IMAGES,
    ChatImages,
    CheckedImage,
    from_base64,
)
from penstock.contract.worker import IMAGES
from penstock.errors import InvalidParameter, UnsupportedFeature
from penstock.transport.jobs.images import digest_of
from tests.fixtures.api import model_card

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def picture() -> bytes:
    out = BytesIO()
    PIL.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


def url_of(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def images(*capabilities: str, **options: Any) -> ChatImages:
    return ChatImages(model_card(capabilities=capabilities), Warnings(), **options)


def test_an_image_is_named_by_its_content() -> None:
    taken, data = images(IMAGES), picture()
    parts = [taken.part(url_of(data), "messages[0].content[0]", "user") for _ in range(2)]
    assert parts == [{"type": "image", "digest": digest_of(data)}] * 2
    assert taken.data == {digest_of(data): data}


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://example.com/a.png", UnsupportedFeature),
        ("file:///etc/passwd", UnsupportedFeature),
        ("", UnsupportedFeature),
        ("data:image/png,abc", InvalidParameter),
        ("data:image/png;base64", InvalidParameter),
        ("data:image/png;base64,?", InvalidParameter),
        ("data:image/png;base64,", InvalidParameter),
        (url_of(b"no picture"), InvalidParameter),
    ],
)
def test_what_is_not_taken(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        images(IMAGES).part(url, "messages[0].content[0]", "user")


def test_base64_is_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_images, "_PIECE", 8)
    for length in range(20):
        data = bytes(range(length))
        assert from_base64(base64.b64encode(data).decode(), "x") == data
    for wrong in (
        "QQ==QUJD",
        "QUFBQUE=QUJD",
        "QUFBQQ==QUJD",
        "QUJDQ",
        "QUJDQUJDQ",
        "QUJD QUJD",
        "é",
    ):
        with pytest.raises(InvalidParameter, match="base64"):
            from_base64(wrong, "x")


def test_what_is_checked_beforehand_is_not_decoded_again() -> None:
    taken, data = images(IMAGES), picture()
    where, url = "messages[0].content[0]", url_of(data)
    other = CheckedImage(b"other", digest_of(b"other"))
    taken.add(url, where, other)
    assert taken.digest(url, where) == other.digest
    assert taken.digest(url, "messages[0].content[1]") == digest_of(data)
    taken.add("data:another", where, other)
    assert taken.digest(url, where) == digest_of(data)


def test_images_at_their_bound() -> None:
    taken, url = images(IMAGES), url_of(picture())
    for _ in range(MOST_IMAGES):
        taken.part(url, "x", "user")
    with pytest.raises(InvalidParameter, match=str(MOST_IMAGES)):
        taken.part(url, "x", "user")


def test_a_model_that_takes_text_only() -> None:
    warnings = Warnings()
    taken = ChatImages(model_card(capabilities=("generate",)), warnings, lambda: ["llava", "qwen"])
    assert taken.part("data:", "x", "tool") == {"type": "text", "text": IMAGE_LEFT_OUT}
    assert warnings.texts == ["images in the outputs of tools are left out"]
    with pytest.raises(UnsupportedFeature, match="llava, qwen"):
        taken.part("data:", "x", "user")
