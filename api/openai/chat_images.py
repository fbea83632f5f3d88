"""The images of a chat's messages: from data URLs to bytes, within bounds."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from penstock import image_bytes
from penstock.contract.job import IMAGE_PART
from penstock.contract.worker import IMAGES
from penstock.errors import InvalidParameter, UnsupportedFeature
from penstock.transport.jobs.images import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from api.http.warnings import Warnings
    from penstock.contract.worker import ModelCard

IMAGE_TYPES: Final = ("image_url", "input_image")
"""The types of a message's parts that are images."""
FETCHED: Final = ("http://", "https://")
FILE_SCHEME: Final = "file-id:"
"""Before the id of a file of the caller's, in the place of a URL."""
MOST_IMAGES: Final = 128
"""Of one request; repeated ones count again."""
MOST_NAMED: Final = 8
IMAGE_LEFT_OUT: Final = "[An image was left out here: this model reads text only.]"

_BASE64: Final = ";base64"
_PIECE: Final = 256 * 1024
"""Characters decoded at once: meanwhile no other thread runs, the event loop's neither."""


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image's bytes, which begin as those of an image within bounds, and their digest."""

    data: bytes
    digest: str


class ChatImages:
    """Collects the images of one request, each once; `data` has their bytes by digest.

    `takers` returns the models that the client may send images to; asked if `card` takes none.
    Most images have been checked beforehand, outside the event loop (`image_sources`).
    """

    def __init__(
        self, card: ModelCard, warnings: Warnings, takers: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self.data: dict[str, bytes] = {}
        self._checked: dict[str, tuple[str, CheckedImage]] = {}
        self._warnings = warnings
        self._card = card
        self._takers = takers
        self._count = 0

    def add(self, url: str, where: str, image: CheckedImage) -> None:
        """Add an image that has been checked, by the place that names it."""
        self._checked[where] = url, image

    def part(self, url: str, where: str, role: str) -> dict[str, Any]:
        """Return what the worker is given for an image.

        For a model that takes text only it is a line of text in the output of a tool, since an
        agent cannot leave its screenshots out.

        :raises UnsupportedFeature, InvalidParameter: see `digest`.
        """
        if role == "tool" and IMAGES not in self._card.capabilities:
            self._warnings.add("images in the outputs of tools are left out")
            return {"type": "text", "text": IMAGE_LEFT_OUT}
        return {"type": IMAGE_PART, "digest": self.digest(url, where)}

    def digest(self, url: str, where: str) -> str:
        """Return the digest by which a prompt names an image; its bytes are in `data` then.

        :raises UnsupportedFeature: the model takes text only, or the image is not in the URL.
        :raises InvalidParameter: it is no image, or out of bounds.
        """
        if IMAGES not in self._card.capabilities:
            named = ", ".join(self._takers()[:MOST_NAMED])
            instead = f"; images are taken by {named}" if named else ""
            raise UnsupportedFeature(
                f"{where}: {self._card.name} takes text only{instead}", param=where
            )
        self._count += 1
        if self._count > MOST_IMAGES:
            raise InvalidParameter(f"{where}: over {MOST_IMAGES} images", param=where)
        known, image = self._checked.get(where, (None, None))
        if image is None or known != url:
            image = checked(decoded(url, where), where)
        self.data[image.digest] = image.data
        return image.digest


def checked(data: bytes, where: str) -> CheckedImage:
    """Return bytes that begin as an image within bounds.

    :raises InvalidParameter: they do not.
    """
    image_bytes.check(data, where)
    return CheckedImage(data, digest_of(data))


def as_url(image: str) -> str:
    """Return an image as a URL; what is none is its bytes in base64."""
    is_url = image.startswith(("data:", *FETCHED))
    return image if is_url else f"data:image/*{_BASE64},{image}"


def decoded(url: str, where: str) -> bytes:
    """Return the bytes of a data URL.

    :raises UnsupportedFeature: the URL names another place.
    :raises InvalidParameter: it is malformed.
    """
    head, comma, body = url.partition(",")
    if not head.startswith("data:"):
        raise UnsupportedFeature(
            f"{where}: images are not fetched from URLs; send the image itself as a data: URL",
            param=where,
        )
    if not comma or not head.endswith(_BASE64):
        raise InvalidParameter(f"{where}: a data: URL of base64 is needed", param=where)
    return from_base64(body, where)


def from_base64(text: str, where: str) -> bytes:
    """Return decoded bytes.

    :raises InvalidParameter: it is not base64, or too long.
    """
    if len(text) * 3 // 4 > image_bytes.MOST_BYTES:
        raise InvalidParameter(
            f"{where}: an image of over {image_bytes.MOST_BYTES} bytes", param=where
        )
    try:
        pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
        parts = [binascii.a2b_base64(piece, strict_mode=True) for piece in pieces]
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"{where}: not base64", param=where) from error
    if any(len(part) < _PIECE * 3 // 4 for part in parts[:-1]):  # padding before the end
        raise InvalidParameter(f"{where}: not base64", param=where)
    return b"".join(parts)
