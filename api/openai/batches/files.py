"""/v1/files: upload, list, show, fetch and delete."""

from __future__ import annotations

import asyncio
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.body_reading import encoding_of, paced
from api.http.errors import json_response
from api.http.record import record_of
from api.openai.batches.file_store import FileStore
from api.openai.batches.objects import COPY_BYTES, writing
from api.openai.batches.storage import objects_of
from penstock.errors import BodyTooLarge, InvalidParameter, UnsupportedEncoding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Message

    from api.openai.batches.file_store import FileCard
    from penstock.settings import Settings

router = Router()

PURPOSES: Final = frozenset({"assistants", "batch", "evals", "fine-tune", "user_data", "vision"})
OVERHEAD_BYTES: Final = 64 * 1024
"""What a form may have around its file."""
EXPIRY_S: Final = (3_600, 2_592_000)
MOST_LISTED: Final = 10_000
UPLOAD: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": sorted(PURPOSES)},
                    },
                }
            }
        },
    }
}


def store_of(settings: Settings) -> FileStore:
    """Return the process's files."""
    return FileStore(objects_of(settings), settings.max_file_bytes)


def file_object(card: FileCard) -> dict[str, Any]:
    """Return OpenAI's object."""
    return {
        "id": card.id,
        "object": "file",
        "bytes": card.bytes,
        "created_at": card.created_s,
        "expires_at": card.expires_s,
        "filename": card.filename,
        "purpose": card.purpose,
        "status": "processed",
        "status_details": None,
    }


@router.endpoint("/v1/files", openapi=UPLOAD)
async def upload_file(request: Request) -> Response:
    """Keep a file."""
    settings = services_of(request).settings
    form = await _form(request, settings.max_file_bytes + OVERHEAD_BYTES)
    try:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise InvalidParameter("file: a file is needed", param="file")
        if not isinstance(purpose, str) or purpose not in PURPOSES:
            known = ", ".join(sorted(PURPOSES))
            raise InvalidParameter(f"purpose: must be one of {known}", param="purpose")
        card = await asyncio.to_thread(
            store_of(settings).add,
            file.file,
            tenant=record_of(request).tenant,
            filename=file.filename or "file",
            purpose=purpose,
            expires_after_s=_expiry(form.get("expires_after[seconds]")),
        )
    finally:
        await form.close()
    return json_response(file_object(card))


def _expiry(text: object) -> int | None:
    if text is None:
        return None
    least, most = EXPIRY_S
    if not (isinstance(text, str) and text.isascii() and text.isdigit()) or not (
        least <= int(text[:12]) <= most
    ):
        raise InvalidParameter(
            f"expires_after.seconds: must be from {least} to {most}", param="expires_after"
        )
    return int(text)


async def _form(request: Request, most_bytes: int) -> FormData:
    """Return the body's form; its files are on disk, not in memory.

    :raises BodyTooLarge: by its Content-Length before a byte is read, else as soon as it passes.
    :raises UnsupportedEncoding: it is compressed.
    :raises RequestTooSlow: it does not come in time.
    :raises StoreUnavailable: the disk takes no more.
    """
    too_large = BodyTooLarge(f"The file is over the limit of {most_bytes} bytes", param="file")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes:
        raise too_large
    if encoding_of(request):
        raise UnsupportedEncoding("A file's form is not to be compressed")
    seen, paced_receive = 0, paced(request.receive)

    async def receive() -> Message:
        nonlocal seen
        message = await paced_receive()
        seen += len(message.get("body", b""))
        if seen > most_bytes:
            raise MultiPartException(too_large.message)  # the parser closes its files on this one
        return message

    try:
        with writing("file"):  # a large one waits on the disk for its end
            return await Request(request.scope, receive).form(max_files=1, max_fields=20)
    except HTTPException as error:
        if seen > most_bytes:
            raise too_large from error
        raise InvalidParameter(f"The request's form cannot be read: {error.detail}") from error


@router.endpoint("/v1/files", method="GET")
async def list_files(
    request: Request,
    purpose: str | None = None,
    limit: int = MOST_LISTED,
    order: str = "desc",
    after: str | None = None,
) -> Response:
    """List the caller's files, the newest first."""
    store, tenant = store_of(services_of(request).settings), record_of(request).tenant
    cards = await asyncio.to_thread(store.cards, tenant)
    cards = [card for card in cards if purpose in (None, card.purpose)]
    if order == "desc":
        cards.reverse()
    return json_response(page([file_object(card) for card in cards], limit, after))


def page(found: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    """Return one page of a list.

    :raises InvalidParameter: `limit` is out of range, or `after` is not in the list.
    """
    if not 1 <= limit <= MOST_LISTED:
        raise InvalidParameter(f"limit: must be from 1 to {MOST_LISTED}", param="limit")
    if after is not None:
        ids = [one["id"] for one in found]
        if after not in ids:
            raise InvalidParameter(f"after: there is no {after[:80]!r}", param="after")
        found = found[ids.index(after) + 1 :]
    shown = found[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(found) > limit,
    }


@router.endpoint("/v1/files/{file_id}", method="GET")
async def retrieve_file(request: Request, file_id: str) -> Response:
    """Show a file."""
    return json_response(file_object((await _own(request, file_id))[1]))


@router.endpoint("/v1/files/{file_id}/content", method="GET")
async def file_content(request: Request, file_id: str) -> Response:
    """Send a file."""
    store, card = await _own(request, file_id)
    file = await asyncio.to_thread(store.open, card)
    return StreamingResponse(
        _pieces(file),
        media_type="application/octet-stream",
        headers={
            "content-length": str(card.bytes),
            "content-disposition": _disposition(card.filename),
            "x-content-type-options": "nosniff",
        },
        background=BackgroundTask(file.close),
    )


def _disposition(filename: str) -> str:
    """Return the header that names a download."""
    quoted = quote(filename)
    if quoted == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=utf-8''{quoted}"


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's bytes; Starlette runs this in a thread."""
    with file:
        while piece := file.read(COPY_BYTES):
            yield piece


@router.endpoint("/v1/files/{file_id}", method="DELETE")
async def delete_file(request: Request, file_id: str) -> Response:
    """Forget a file."""
    store, card = await _own(request, file_id)
    await asyncio.to_thread(store.delete, card)
    return json_response({"id": card.id, "object": "file", "deleted": True})


async def _own(request: Request, file_id: str) -> tuple[FileStore, FileCard]:
    store = store_of(services_of(request).settings)
    card = await asyncio.to_thread(store.own, file_id, record_of(request).tenant)
    return store, card
