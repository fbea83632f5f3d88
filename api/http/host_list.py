"""Lists of hosts that an operator allows."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PORTS: Final = {"http": 80, "https": 443}
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""The only IPv6 addresses that can be public."""
_6TO4: Final = ipaddress.ip_network("2002::/16")
"""Each stands for an IPv4 address, which may be private."""


def allows(entries: Sequence[str], host: str, port: int) -> bool:
    """Return whether a list has a host.

    An entry is a host, a pattern (`*.gpu.example`) or a network (`10.0.0.0/8`), with `:port` or
    without. An IPv6 address with a port has brackets (`[fd00::1]:8080`). Names are not looked up:
    a network allows addresses only.
    """
    return any(_allows(pattern, host) for pattern in _patterns(entries, port))


def allows_address(entries: Sequence[str], address: str, port: int) -> bool:
    """Return whether a host of the list that resolves to an address may be called there.

    That is any public address, and those that an entry names as an address or a network.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    is_public = ip.is_global and not ip.is_multicast
    if ip.version == 6:  # noqa: PLR2004 - IPv6
        is_public = is_public and ip in _GLOBAL_UNICAST and ip not in _6TO4
    return is_public or any(_holds(pattern, str(ip)) for pattern in _patterns(entries, port))


def _patterns(entries: Sequence[str], port: int) -> Iterator[str]:
    """Yield the entries for a port, without it."""
    for entry in entries:
        pattern, colon, own = entry.rpartition(":")
        is_bare_ipv6 = ":" in pattern and not pattern.endswith("]") and "/" not in pattern
        if not colon or not own.isdigit() or is_bare_ipv6:
            pattern, own = entry, ""
        if not own or int(own) == port:
            yield pattern.strip("[]").lower()


def _allows(pattern: str, host: str) -> bool:
    if _holds(pattern, host):
        return True
    return "/" not in pattern and fnmatchcase(host.lower(), pattern)


def _holds(pattern: str, address: str) -> bool:
    """Whether a pattern is a network that has an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(address) in ipaddress.ip_network(pattern)
    return False
