"""Which bytes are an image, and how large it may be."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest

from penstock import image_bytes
from penstock.errors import InvalidParameter

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def picture(kind: str, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    out = BytesIO()
    PIL.new(mode, size).save(out, kind)
    return out.getvalue()


def png_head(width: int, height: int) -> bytes:
    """A PNG that claims a size, without any pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    empty = b"IDAT" + zlib.compress(b"")
    data = struct.pack(">I", len(empty) - 4) + empty + struct.pack(">I", zlib.crc32(empty))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


@pytest.mark.parametrize("kind", image_bytes.KINDS)
def test_kinds_that_are_read(kind: str) -> None:
    mode = "P" if kind == "GIF" else "RGB"
    data = picture(kind, mode=mode)
    image_bytes.check(data, "x")
    decoded = image_bytes.decode(data)
    assert (decoded.mode, decoded.size) == ("RGB", (8, 6))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1"])
def test_pixels_become_red_green_and_blue(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert image_bytes.decode(picture(kind, mode=mode)).mode == "RGB"


@pytest.mark.parametrize("data", [b"", b"x", b"%PDF-1.4", b"BM" + bytes(60), bytes(100)])
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(InvalidParameter, match="not an image of PNG, JPEG, WEBP, GIF") as caught:
        image_bytes.check(data, "messages[0]")
    assert caught.value.param == "messages[0]"


def test_a_picture_that_is_cut_off() -> None:
    data = picture("PNG", (64, 64))
    image_bytes.check(data[:60], "x")
    with pytest.raises(InvalidParameter, match="damaged"):
        image_bytes.decode(data[:60])


def test_bytes_at_the_bound() -> None:
    data = picture("PNG")
    image_bytes.check(data + bytes(image_bytes.MOST_BYTES - len(data)), "x")
    with pytest.raises(InvalidParameter, match="bytes"):
        image_bytes.check(data + bytes(image_bytes.MOST_BYTES - len(data) + 1), "x")


def test_pixels_at_the_bound() -> None:
    side = image_bytes.MOST_SIDE
    height = image_bytes.MOST_PIXELS // side
    image_bytes.check(png_head(side, height), "x")
    for width, high in ((side, height + 1), (side + 1, 1), (100_000, 100_000)):
        with pytest.raises(InvalidParameter, match="pixels"):
            image_bytes.check(png_head(width, high), "x")
