"""Bytes that begin as an image, and go on as they please."""

from __future__ import annotations

import os
from io import BytesIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import image_bytes
from penstock.errors import InvalidParameter

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
