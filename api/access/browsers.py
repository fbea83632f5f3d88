"""What a page in a browser may ask for without a key: nothing, unless it is ours.

Where no key is needed, every page that a user of the network opens could send requests: to another
site's address at once (cross-site request forgery), and to one that it has pointed at us by its own
name server (DNS rebinding). A key in a header shows that no foreign page has sent a request, since a
browser asks for permission (CORS) before it sends one.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from penstock.errors import NotPermitted

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from penstock.settings import Settings

LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa", ".svc")
"""Of names that no public name server gives out."""
_OURS: Final = frozenset({"same-origin", "none"})
"""What a browser sends in `Sec-Fetch-Site` for our own page, or of an address that was typed."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def check_origin(headers: Headers, settings: Settings) -> None:
    """Check that a request without a key does not come from a foreign page.

    :raises NotPermitted: it does; `PENSTOCK_CORS_ORIGINS` lists those that may.
    """
    if "authorization" in headers or "x-api-key" in headers:
        return
    origin = headers.get("origin")
    if origin is None or "*" in settings.cors_origins or origin in settings.cors_origins:
        return
    site = headers.get("sec-fetch-site")
    if site in _OURS or (site is None and _is_host(origin, headers.get("host", ""))):
        return
    raise NotPermitted(
        "Pages of other sites need an API key, or their origin in PENSTOCK_CORS_ORIGINS"
    )


def check_host(headers: Headers, settings: Settings) -> None:
    """Check that a browser without a key has used a name of ours: rebinding uses a foreign one.

    :raises NotPermitted: it has not.
    """
    if not _is_browser(headers):
        return
    host = _name_of(headers.get("host", ""))
    if "*" in settings.allowed_hosts or host in settings.allowed_hosts or _is_local(host):
        return
    raise NotPermitted(
        f"Without an API key a browser does not reach this server as {host[:100]!r}; "
        "PENSTOCK_ALLOWED_HOSTS lists its names"
    )


def _is_browser(headers: Headers) -> bool:
    """Return whether a request looks like a browser's; no page can remove its `Origin`."""
    agent = headers.get("user-agent", "")
    return "origin" in headers or "sec-fetch-site" in headers or agent.startswith("Mozilla/")


def _is_local(host: str) -> bool:
    """Return whether a name cannot have been bound to us by a foreign name server."""
    if "." not in host or host.endswith(LOCAL_SUFFIXES) or host in _own_names():
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@cache
def _own_names() -> frozenset[str]:
    return frozenset({socket.gethostname().lower()})


def _name_of(host: str) -> str:
    """Return the name of a `Host` header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host


def _is_host(origin: str, host: str) -> bool:
    """Return whether an origin is the address that the request was sent to."""
    scheme = origin.partition("://")[0]
    origin_place = _place(origin, scheme)
    return origin_place is not None and origin_place == _place(f"//{host}", scheme)


def _place(url: str, scheme: str) -> tuple[str, int | None] | None:
    """Return a URL's host and port; None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None
