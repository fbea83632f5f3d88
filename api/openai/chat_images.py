"""The images of a chat's messages: from data URLs to bytes, within bounds."""

from __future__ import annotations

import base64
import binascii
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


class ChatImages:
    """Collects the images of one request, each once; `data` has their bytes by digest.

    `takers` returns the models that the client may send images to; asked if `card` takes none.
    `elsewhere` has what was fetched beforehand, by its URL (`image_sources`).
    """

    def __init__(
        self, card: ModelCard, warnings: Warnings, takers: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self.data: dict[str, bytes] = {}
        self.elsewhere: dict[str, bytes] = {}
        self._warnings = warnings
        self._card = card
        self._takers = takers
        self._count = 0

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
        data = self.elsewhere[url] if url in self.elsewhere else decoded(url, where)
        image_bytes.check(data, where)
        digest = digest_of(data)
        self.data[digest] = data
        return digest


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
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"{where}: not base64", param=where) from error
