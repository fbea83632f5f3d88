"""Collects the images of a request: from its body, files of the caller's, URLs of allowed hosts.

They are decoded and checked in threads of their own: one of 20 MB takes some 100 ms.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from api.access.dependencies import services_of
from api.http.fetching import Room
from api.http.record import record_of
from api.jobs.routing import image_models
from api.openai.batches.files import store_of
from api.openai.chat_images import (
    FETCHED,
    FILE_SCHEME,
    IMAGE_TYPES,
    MOST_IMAGES,
    ChatImages,
    CheckedImage,
    checked,
    decoded,
)
from penstock import image_bytes
from penstock.contract.worker import IMAGES
from penstock.errors import BadRequest, InvalidParameter, UnknownObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from starlette.requests import Request

    from api.openai.batches.file_store import FileCard, FileStore
    from api.openai.schema import ChatRequest
    from penstock.contract.worker import ModelCard


ELSEWHERE_BYTES: Final = 64 * 1024 * 1024
"""Of one request's images that are not in its body, all together."""


async def images_of_chat(request: Request, card: ModelCard, asked: ChatRequest) -> ChatImages:
    """Return what collects the images of a chat.

    :raises InvalidParameter: one cannot be fetched, or is no image.
    :raises UnknownObject: it names a file that is not the caller's.
    :raises UnsupportedFeature: it names another place.
    """
    return await images_at(request, card, list(_urls(asked)))


async def images_at(
    request: Request, card: ModelCard, urls: Sequence[tuple[str, str]]
) -> ChatImages:
    """Return what collects the images of a request, given as URLs, each with its place in it.

    :raises InvalidParameter, UnknownObject, UnsupportedFeature: see `images_of_chat`.
    """
    images = ChatImages(card, record_of(request).warnings, partial(image_models, request))
    if IMAGES not in card.capabilities or not urls:
        return images
    if len(urls) > MOST_IMAGES:
        raise InvalidParameter(f"over {MOST_IMAGES} images", param=urls[MOST_IMAGES][1])
    elsewhere = await _fetched(request, urls)

    def check() -> list[CheckedImage]:
        return [checked(_bytes(url, where, elsewhere), where) for url, where in urls]

    threads = services_of(request).image_threads
    made = await asyncio.get_running_loop().run_in_executor(threads, check)
    for (url, where), image in zip(urls, made, strict=True):
        images.add(url, where, image)
    return images


async def _fetched(request: Request, urls: Sequence[tuple[str, str]]) -> dict[str, bytes]:
    """Return what the URLs outside the request's body name."""
    services = services_of(request)
    schemes = (FILE_SCHEME, *(FETCHED if services.fetcher.hosts else ()))
    places = {url: where for url, where in reversed(urls) if url.startswith(schemes)}
    tenant = record_of(request).tenant
    room = Room(ELSEWHERE_BYTES)
    contents: dict[str, bytes] = {}

    async def take(url: str) -> None:
        try:
            if url.startswith(FILE_SCHEME):
                store, file_id = store_of(services.settings), url.removeprefix(FILE_SCHEME)
                card = await asyncio.to_thread(store.own, file_id, tenant)
                _check(card, room)
                contents[url] = await asyncio.to_thread(_content, store, card)
            else:
                contents[url] = await services.fetcher.fetch(
                    url, image_bytes.MOST_BYTES, room, tenant
                )
        except (BadRequest, UnknownObject) as error:
            error.message, error.param = f"{places[url]}: {error.message}", places[url]
            raise

    tasks = [asyncio.create_task(take(url)) for url in places]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return contents


def _bytes(url: str, where: str, elsewhere: Mapping[str, bytes]) -> bytes:
    """Return what a URL names. Only short ones are looked up: a hash reads the whole URL."""
    return (
        decoded(url, where)
        if url.startswith("data:")
        else elsewhere.get(url) or decoded(url, where)
    )


def _check(card: FileCard, room: Room) -> None:
    """:raises InvalidParameter: the file is too large, or there is no room for it."""
    if card.bytes > image_bytes.MOST_BYTES:
        raise InvalidParameter(f"an image of over {image_bytes.MOST_BYTES} bytes")
    room.take(card.bytes)


def _content(store: FileStore, card: FileCard) -> bytes:
    with store.open(card) as file:
        return file.read(image_bytes.MOST_BYTES)


def _urls(asked: ChatRequest) -> Iterator[tuple[str, str]]:
    """Yield the URLs of a chat's images, each with its place in the request."""
    for number, message in enumerate(asked.messages):
        parts = message.content if isinstance(message.content, list) else []
        for position, part in enumerate(parts):
            if part.type in IMAGE_TYPES and part.url is not None:
                yield part.url, f"messages[{number}].content[{position}]"
