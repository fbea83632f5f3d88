"""Pictures as clients send them: which kinds are taken, and how large they may be."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Final

from penstock.errors import InvalidParameter, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS: Final = ("PNG", "JPEG", "WEBP", "GIF")
"""By their header's bytes, whatever a client calls them; of an animation the first frame is read."""
MOST_BYTES: Final = 20 * 1024 * 1024
MOST_PIXELS: Final = 64 * 1024 * 1024
"""Width times height; a small file may claim any number of pixels."""
MOST_SIDE: Final = 16_384


def check(data: bytes, param: str) -> None:
    """Make sure that bytes begin as an image of a kind that is read, within the bounds.

    Only the header is read.

    :raises InvalidParameter: they do not.
    """
    with _opened(data, param):
        pass


def decode(data: bytes) -> Image:
    """Return an image as (height, width) pixels of red, green and blue, upright.

    :raises InvalidParameter: it is damaged, or out of bounds.
    """
    from PIL import ImageOps  # noqa: PLC0415 - only for models that take images

    with _opened(data, "messages") as image:
        try:
            return ImageOps.exif_transpose(image).convert("RGB")
        except Exception as error:
            raise InvalidParameter(
                f"an image is damaged: {first_line(error)}", param="messages"
            ) from error


def _opened(data: bytes, param: str) -> Image:
    """:raises InvalidParameter: no image, or one out of bounds."""
    from PIL import Image  # noqa: PLC0415 - only for requests with images

    if len(data) > MOST_BYTES:
        raise InvalidParameter(f"{param}: an image of over {MOST_BYTES} bytes", param=param)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bounds on pixels are ours
            image = Image.open(BytesIO(data), formats=KINDS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("too many", param) from error
    except Exception as error:
        kinds = ", ".join(KINDS)
        raise InvalidParameter(f"{param}: not an image of {kinds}", param=param) from error
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE or not width * height:
        raise _too_many_pixels(f"{width} x {height}", param)
    return image


def _too_many_pixels(size: str, param: str) -> InvalidParameter:
    return InvalidParameter(
        f"{param}: an image of {size} pixels; at most {MOST_PIXELS} pixels and {MOST_SIDE} a side "
        f"are taken",
        param=param,
    )
