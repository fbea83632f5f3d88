"""A chat's images outside its body: files of the caller, and URLs of allowed hosts."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from api.access.dependencies import services_of
from api.http.fetching import Room
from api.http.record import record_of
from api.jobs.routing import image_models
from api.openai.batches.files import store_of
from api.openai.chat_images import FETCHED, FILE_SCHEME, IMAGE_TYPES, MOST_IMAGES, ChatImages
from penstock import image_bytes
from penstock.contract.worker import IMAGES
from penstock.errors import BadRequest, InvalidParameter, UnknownObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request

    from api.openai.batches.file_store import FileCard, FileStore
    from api.openai.schema import ChatRequest
    from penstock.contract.worker import ModelCard


ELSEWHERE_BYTES: Final = 64 * 1024 * 1024
"""Of one request's images that are not in its body, all together."""


async def images_of_chat(request: Request, card: ModelCard, asked: ChatRequest) -> ChatImages:
    """Return what collects the images of a chat, those outside its body included.

    :raises InvalidParameter: one cannot be fetched.
    :raises UnknownObject: it names a file that is not the caller's.
    """
    return await images_at(request, card, dict(_urls(asked)))


async def images_at(request: Request, card: ModelCard, urls: Mapping[str, str]) -> ChatImages:
    """Return what collects the images of a request; `urls` are mapped to their places in it.

    :raises InvalidParameter, UnknownObject: see `images_of_chat`.
    """
    images = ChatImages(card, record_of(request).warnings, partial(image_models, request))
    services = services_of(request)
    if IMAGES not in card.capabilities:
        return images
    away = [url for url in urls if url.startswith(FILE_SCHEME)]
    if services.fetcher.hosts:
        away += [url for url in urls if url.startswith(FETCHED)]
    if len(away) > MOST_IMAGES:
        raise InvalidParameter(f"over {MOST_IMAGES} images", param=urls[away[0]])
    room = Room(ELSEWHERE_BYTES)

    async def take(url: str) -> None:
        try:
            if url.startswith(FILE_SCHEME):
                store, file_id = store_of(services.settings), url.removeprefix(FILE_SCHEME)
                card = await asyncio.to_thread(store.own, file_id, record_of(request).tenant)
                _check(card, room)
                content = await asyncio.to_thread(_content, store, card)
            else:
                content = await services.fetcher.fetch(url, image_bytes.MOST_BYTES, room)
        except (BadRequest, UnknownObject) as error:
            error.message, error.param = f"{urls[url]}: {error.message}", urls[url]
            raise
        images.elsewhere[url] = content

    tasks = [asyncio.create_task(take(url)) for url in away]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return images


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
