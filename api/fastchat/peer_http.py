"""Calls to other FastChat programs, bounded in size and time whatever they answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CONNECT_S: Final = 3.0
SMALL_ANSWER_BYTES: Final = 256 * 1024
"""Of a status, a model's details, a conversation's template, a heartbeat's answer."""
ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Of a whole answer, embeddings among them."""
OBJECT_BYTES: Final = 4 * 1024 * 1024
"""Of one object of a stream: it has the answer's whole text so far."""
HEADERS: Final = {"accept-encoding": "identity"}
"""Nothing is decompressed: a small answer could unpack to gigabytes."""


def client() -> httpx.AsyncClient:
    """Return a client for the calls below."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(CONNECT_S),
        limits=httpx.Limits(max_connections=None),
        headers=HEADERS,
        trust_env=False,  # no proxy, no .netrc: only the allowed hosts are ever called
    )


async def call(
    http: httpx.AsyncClient, url: str, body: object, *, total_s: float, most_bytes: int
) -> Any:
    """Post JSON and return the JSON that comes back, all of it within `total_s`.

    :raises httpx.HTTPError: no answer, a late, large or compressed one, or one with an error status.
    :raises ValueError: it is not JSON.
    """
    timeout = httpx.Timeout(total_s, connect=min(CONNECT_S, total_s))
    try:
        async with (
            asyncio.timeout(total_s),
            http.stream("POST", url, json=body, timeout=timeout) as answer,
        ):
            answer.raise_for_status()
            _check_plain(answer)
            content = bytearray()
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > most_bytes:
                    raise httpx.DecodingError(f"the answer is over {most_bytes} bytes")
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no whole answer within {total_s:g} s") from error
    return parse_json(bytes(content))


async def split(
    http: httpx.AsyncClient, url: str, body: object, *, silence_s: float, total_s: float, end: bytes
) -> AsyncGenerator[bytes, None]:
    """Post JSON and yield what stands before each `end` of the answer, without empty pieces.

    Bytes that do not end an object are silence: each has to be whole within `silence_s`.

    :raises httpx.HTTPError: as `call`, or the last object has no end.
    """
    ends_s = time.monotonic() + total_s
    timeout = httpx.Timeout(silence_s, connect=CONNECT_S)
    request = http.build_request("POST", url, json=body, timeout=timeout)
    try:
        async with asyncio.timeout(silence_s + CONNECT_S):
            answer = await http.send(request, stream=True)
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no answer within {silence_s:g} s") from error
    try:
        answer.raise_for_status()
        _check_plain(answer)
        rest = bytearray()
        whole_s = time.monotonic()
        async for piece in answer.aiter_raw():
            *contents, tail = piece.split(end)
            for content in contents:
                rest += content
                _check_size(rest)
                complete, rest = bytes(rest), bytearray()
                whole_s = time.monotonic()
                if complete:
                    yield complete
            rest += tail
            _check_size(rest)
            now_s = time.monotonic()
            if now_s > min(ends_s, whole_s + silence_s):
                raise httpx.ReadTimeout("no whole object in time")
        if rest:
            raise httpx.RemoteProtocolError("the last object has no end")
    finally:
        await answer.aclose()


def _check_size(content: bytearray) -> None:
    if len(content) > OBJECT_BYTES:
        raise httpx.DecodingError(f"an object is over {OBJECT_BYTES} bytes")


def _check_plain(answer: httpx.Response) -> None:
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise httpx.DecodingError(f"the answer is compressed ({encoding[:40]!r})")
