"""Bytes that begin as an image, and go on as they please."""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock import image_bytes
from penstock.errors import InvalidParameter
from tests.fixtures.image_requests import WAYS, is_refused

if TYPE_CHECKING:
    from tests.fuzz.conftest import Target

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

EXAMPLES = 20 * int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "5"))
MODES = {"PNG": ("RGB", "RGBA", "L", "P", "1"), "JPEG": ("RGB", "CMYK", "L"), "WEBP": ("RGB",)}
LONGEST = 20_000


def _pictures() -> list[bytes]:
    made: list[bytes] = []
    for kind in image_bytes.KINDS:
        for mode in MODES.get(kind, ("P",)):
            for options in ({}, {"progressive": True}) if kind == "JPEG" else ({},):
                out = BytesIO()
                noise = PIL.effect_noise((40, 30), 90).convert(mode)
                noise.save(out, kind, **options)
                made.append(out.getvalue())
    frames = [PIL.new("P", (20, 20), number) for number in range(3)]
    for kind in ("GIF", "WEBP", "PNG"):
        out = BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        made.append(out.getvalue())
    return made


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with bytes changed, pieces repeated, taken out or put in, and its end cut off."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                data[at:at] = draw(st.binary(max_size=12))
            case 2:
                del data[at : at + draw(st.integers(0, 40))]
            case _:
                data[at:at] = data[at : at + draw(st.integers(0, 200))]
        if not data:
            break
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)[:LONGEST]


PICTURES = _pictures()


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=damaged() | st.binary(max_size=400))
@example(data=b"GIF89a" + bytes(30))
def test_whatever_bytes_are_they_are_an_image_or_the_requests_error(data: bytes) -> None:
    try:
        image_bytes.check(data, "x")
    except InvalidParameter:
        return
    try:
        image = image_bytes.decode(data)
    except InvalidParameter:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= image_bytes.MOST_PIXELS


@pytest.mark.timeout(60 + EXAMPLES)
def test_no_dialect_blames_the_server_for_them(target: Target) -> None:
    """A real worker's half, which reads all of an image, is in tests/e2e/test_images.py."""
    refused: set[bool] = set()

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=cast("Any", list(HealthCheck)),
    )
    @given(way=st.sampled_from(sorted(WAYS)), data=damaged() | st.binary(max_size=400))
    def check(way: str, data: bytes) -> None:
        path, body = WAYS[way]
        refused.add(is_refused(client.post(path, json=body("tiny", data))))

    with httpx.Client(base_url=target.api.url, timeout=20.0) as client:
        check()
    assert refused == {False, True}
    target.check_alive()
