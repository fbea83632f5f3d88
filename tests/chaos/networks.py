"""A network of its own for each process (`ip netns`), whose packets can be lost, each way apart.

A namespace has one pair of virtual interfaces to this host, with two addresses at each end: one for
its way to Redis, one for its clients. Packets are lost without a word: the neighbour of an address
is given a hardware address that nobody has. That needs `ip` alone, and the right to use it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODYS = "02:00:00:00:00:fe"
MOST = 60
"""Networks of one run: each has four addresses of 10.213.<run>.0/24."""


@dataclass(frozen=True)
class Link:
    """One way between the host's address and the namespace's; `here` and `there` are IPv4."""

    here: str
    there: str


class Network:
    """One process's namespace."""

    def __init__(self, number: int) -> None:
        self.name = f"chaos{os.getpid() % 10_000}n{number}"
        self._device = f"c{os.getpid() % 10_000}v{number}"
        base = number * 4
        subnet = f"10.213.{os.getpid() % 250}"
        self.store = Link(f"{subnet}.{base + 1}", f"{subnet}.{base + 2}")
        self.clients = Link(f"{subnet}.{base + 3}", f"{subnet}.{base + 4}")

    @property
    def prefix(self) -> list[str]:
        """What runs a command inside; the process keeps the id that is given to it."""
        return ["ip", "netns", "exec", self.name]

    def create(self) -> None:
        """Make the namespace, its interfaces and addresses.

        :raises subprocess.CalledProcessError: this machine does not let us.
        """
        inside = ["-n", self.name]
        peer = f"{self._device}p"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._device, "type", "veth", "peer", "name", peer, "netns", self.name)
        for link in (self.store, self.clients):
            _ip("addr", "add", link.here, "peer", link.there, "dev", self._device)
            _ip(*inside, "addr", "add", link.there, "peer", link.here, "dev", peer)
        _ip("link", "set", self._device, "up")
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", peer, "up")

    def remove(self) -> None:
        """Take all of it away; processes in it keep what they have until they end."""
        for command in (("link", "del", self._device), ("netns", "del", self.name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*command)

    @contextlib.contextmanager
    def lost(self, link: Link, *, to_process: bool, from_process: bool) -> Iterator[None]:
        """Lose the packets of a link, in one direction or both."""
        ends: list[tuple[list[str], str, str]] = []
        if to_process:
            ends.append(([], link.there, self._device))
        if from_process:
            ends.append((["-n", self.name], link.here, f"{self._device}p"))
        for inside, address, device in ends:
            _ip(*inside, "neigh", "replace", address, "lladdr", NOBODYS, "dev", device)
        try:
            yield
        finally:
            for inside, address, device in ends:
                _ip(*inside, "neigh", "del", address, "dev", device)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def reason_against() -> str:
    """Return why there can be no such networks on this machine; empty if there can be."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    trial = Network(MOST)
    try:
        trial.create()
        with trial.lost(trial.store, to_process=True, from_process=True):
            pass
    except subprocess.CalledProcessError as error:
        return f"`ip` may not make network namespaces here: {error.stderr.decode().strip()}"
    finally:
        trial.remove()
    return ""
