"""A worker's part in the exchange of blocks between hosts; off without a token."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Self

from celery.utils.log import get_logger

from penstock.contract.worker import ExchangeCard
from penstock.engine.reuse.block_files import folder_id
from penstock.errors import BadSettings
from penstock.transport.store import sentinel
from workers.serving.block_exchange.fetching import HostBlocks, new_client
from workers.serving.block_exchange.hosts import Hosts
from workers.serving.block_exchange.server import BlockServer
from workers.serving.block_exchange.wire import Token

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from penstock.settings import Settings

logger = get_logger(__name__)

LEAST_TOKEN: Final = 16
LOOPBACK: Final = "127.0.0.1"


class BlockExchange:
    """Serves this host's blocks, and makes what asks other hosts for theirs."""

    def __init__(
        self, folder: Path, token: str, store: redis.Redis, *, host: str, port: int
    ) -> None:
        """Bind the port; `folder` is the store of this host.

        :raises StartupError: the port is not free, or `host` is not of this machine.
        """
        self._token = Token(token)
        store_id = folder_id(folder)
        self._server = BlockServer(folder, self._token, host, port)
        self._hosts = Hosts(store, store_id)
        self._client = new_client()
        self.card = ExchangeCard(self._server.url, store_id)
        self._has_begun = False

    @classmethod
    def of(cls, settings: Settings, store: redis.Redis) -> Self | None:
        """Return the exchange that the settings ask for; None if they do not.

        :raises BadSettings: there is a token and no store, or the token is too short.
        :raises StartupError: see `__init__`.
        """
        token = settings.kv_exchange_token
        if not token:
            return None
        if settings.kv_store is None:
            raise BadSettings("PENSTOCK_KV_EXCHANGE_TOKEN: PENSTOCK_KV_STORE is needed too")
        if len(token) < LEAST_TOKEN:
            raise BadSettings(f"PENSTOCK_KV_EXCHANGE_TOKEN: {LEAST_TOKEN} characters at least")
        host = settings.kv_exchange_host or _address_towards(settings)
        folder = settings.kv_store.expanduser()
        return cls(folder, token, store, host=host, port=settings.kv_exchange_port)

    def start(self) -> None:
        """Serve from now on, if nothing is served yet. For one thread."""
        if self._has_begun:
            return
        self._has_begun = True
        self._server.start()
        logger.info("Blocks of the KV cache at %s", self.card.url)

    def remote(self, queue: str, identity: bytes, most_bytes: int) -> HostBlocks:
        """Return the blocks of one model on other hosts; see `HostBlocks`."""
        return HostBlocks(
            self._hosts,
            self._client,
            self._token,
            queue=queue,
            identity=identity,
            most_bytes=most_bytes,
        )

    def close(self) -> None:
        """Serve no more."""
        self._server.close()
        self._client.close()


def _address_towards(settings: Settings) -> str:
    """Return this machine's address on the network on which it reaches Redis."""
    server = sentinel.first_server(settings)
    if server is None:
        return LOOPBACK
    try:
        found = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # a datagram socket sends nothing by that
            return str(probe.getsockname()[0])
    except OSError:
        return LOOPBACK
