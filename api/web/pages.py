"""GET /, /docs and their assets, from memory. Open to all: no file has data of a user."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from fastapi import HTTPException, Request
from starlette.responses import Response

from api.endpoint import Router

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

router = Router(include_in_schema=False)

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
PLAIN: Final = "text/plain; charset=utf-8"

# Model output is shown as HTML: should a way around its sanitising be found, this still lets no
# script run and nothing leave to another host.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Asked for again each time, and answered by 304: a new release needs no new names.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True)
class Asset:
    """A file and its headers."""

    body: bytes
    compressed: bytes
    type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Return every file by its path under `static`, read once a process."""
    root = resources.files("api.web") / "static"
    return {path: _asset(path, file.read_bytes()) for path, file in _walk(root, "")}


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _asset(path: str, body: bytes) -> Asset:
    kind = TYPES.get(path.rsplit(".", 1)[-1], PLAIN)
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    return Asset(body, gzip.compress(body, 6, mtime=0), kind, etag)


@router.endpoint("/", method="HEAD")
@router.endpoint("/", method="GET")
async def page(request: Request) -> Response:
    """Show the page."""
    return await _answer(request, "index.html")


@router.endpoint("/docs", method="HEAD")
@router.endpoint("/docs", method="GET")
async def docs(request: Request) -> Response:
    """Show the API's description, by Swagger UI of our own files."""
    return await _answer(request, "docs.html")


@router.endpoint("/assets/{path:path}", method="GET")
async def asset(request: Request, path: str) -> Response:
    """Show one of its files."""
    return await _answer(request, path)


async def _answer(request: Request, path: str) -> Response:
    asset = (await asyncio.to_thread(assets)).get(path)
    if asset is None:
        raise HTTPException(404, "There is no such file")
    headers = {**HEADERS, "etag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = asset.compressed
        headers["content-encoding"] = "gzip"
    return Response(body, headers={**headers, "content-type": asset.type})
