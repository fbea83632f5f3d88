"""Fetches what clients' URLs name, only from hosts that the operator allows.

A host's name is resolved once, and that very address is called, so that a name cannot point
elsewhere between the check and the call. Redirects are followed by hand, each checked alike.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx

from api.http.fair_turns import FairTurns
from api.http.host_list import PORTS, allows, allows_address
from penstock.errors import InvalidParameter, first_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

TOTAL_S: Final = 10.0
"""From the lookup of the name to the last byte, the wait for a free slot included."""
CONNECT_S: Final = 3.0
AT_ONCE: Final = 16
"""Fetches of this process that run at the same time; others wait."""
TENANT_AT_ONCE: Final = 12
"""Those of one tenant: some are always left for another."""
MOST_REDIRECTS: Final = 3
LONGEST_URL: Final = 8_192
LAST_PORT: Final = 65_535

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"accept-encoding": "identity", "accept": "image/*", "user-agent": "penstock"}
"""Nothing is decompressed: a small answer could unpack to gigabytes."""


@dataclass
class Room:
    """The bytes that one request's fetches may still bring, all together. Of the event loop."""

    left: int

    def take(self, size: int) -> None:
        """Use some up.

        :raises InvalidParameter: there is no room for them.
        """
        self.left -= size
        if self.left < 0:
            raise InvalidParameter("the images that its URLs name are too large together")


class Fetcher:
    """Fetches URLs. Owned by the event loop.

    `resolve` returns the addresses of a name.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        resolve: Callable[[str, int], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self.hosts = tuple(hosts)
        self._resolve = resolve or self._addresses
        # A lookup cannot be cancelled: a slow name server must not use up the loop's own threads.
        self._lookups = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lookup")
        self._turns = FairTurns(AT_ONCE, TENANT_AT_ONCE)
        self._http = httpx.AsyncClient(
            headers=_HEADERS,
            timeout=httpx.Timeout(TOTAL_S, connect=CONNECT_S),
            # A connection is for the name that its certificate was checked for.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            # No proxy, no .netrc: only the allowed hosts are ever called. The operator's own
            # certificate authorities count (SSL_CERT_FILE, SSL_CERT_DIR).
            trust_env=False,
            verify=httpx.create_ssl_context(trust_env=True) if hosts else True,
        )

    async def close(self) -> None:
        """Close the client."""
        self._lookups.shutdown(wait=False, cancel_futures=True)
        await self._http.aclose()

    async def fetch(self, url: str, most_bytes: int, room: Room, tenant: str) -> bytes:
        """Return the bytes that a URL names, for a tenant.

        :raises InvalidParameter: its host is not allowed, or does not send them as it should.
        """
        try:
            async with asyncio.timeout(TOTAL_S), self._turns.of(tenant):
                for _ in range(MOST_REDIRECTS + 1):
                    content = await self._fetched(url, most_bytes, room)
                    if isinstance(content, bytes):
                        return content
                    url = str(content)
        except TimeoutError as error:
            raise InvalidParameter(f"the URL took over {TOTAL_S:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise InvalidParameter(f"the URL cannot be fetched: {first_line(error)}") from error
        raise InvalidParameter(f"the URL has more than {MOST_REDIRECTS} redirects")

    async def _fetched(self, url: str, most_bytes: int, room: Room) -> bytes | httpx.URL:
        """Return a URL's bytes, or where it is redirected to."""
        target, address = await self._checked(url)
        request = self._http.build_request(
            "GET",
            target.copy_with(host=address, fragment=None),
            headers={"host": target.netloc.decode()},
            extensions={"sni_hostname": target.raw_host.decode()},
        )
        answer = await self._http.send(request, stream=True)
        try:
            if answer.status_code in _MOVED and "location" in answer.headers:
                return target.join(answer.headers["location"])
            if not answer.is_success:
                raise InvalidParameter(f"{target.host} answers {answer.status_code}")
            content = bytearray()
            async for piece in answer.aiter_raw():
                content += piece
                room.take(len(piece))
                if len(content) > most_bytes:
                    raise InvalidParameter(f"{target.host} sends over {most_bytes} bytes")
            return bytes(content)
        finally:
            await answer.aclose()

    async def _checked(self, url: str) -> tuple[httpx.URL, str]:
        """Return a URL and the address to call for it.

        :raises InvalidParameter: it is not on the list, or its address is not public.
        """
        if len(url) > LONGEST_URL:
            raise InvalidParameter(f"a URL of over {LONGEST_URL} characters")
        target = httpx.URL(url)
        if target.scheme not in PORTS or not target.host or target.userinfo:
            raise InvalidParameter("a URL is of http or https, without a user")
        host, port = target.host, target.port or PORTS[target.scheme]
        if port > LAST_PORT or not allows(self.hosts, host, port):
            raise InvalidParameter(f"nothing is fetched from {host}:{port}")
        addresses = await self._resolve(target.raw_host.decode(), port)
        usable = (one for one in addresses if allows_address(self.hosts, one, port))
        address = next(usable, None)
        if address is None:
            raise InvalidParameter(f"{host} has no public address")
        return target, address

    async def _addresses(self, host: str, port: int) -> list[str]:
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        entries = await asyncio.get_running_loop().run_in_executor(self._lookups, lookup)
        return [str(entry[4][0]) for entry in entries]
