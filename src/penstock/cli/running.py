"""The addresses of a fleet that `penstock up` runs in this folder, for other commands.

`up` holds a lock on `.penstock/up.lock` while it runs and writes its addresses next to it, so that
`penstock status` in another terminal needs no configuration. An explicit PENSTOCK_REDIS_URL or
`--url` always takes precedence.
"""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from penstock import settings as settings_module
from penstock.errors import StartupError
from penstock.redis_addresses import redis_address

if TYPE_CHECKING:
    from collections.abc import Generator

    from penstock.settings import Settings

STATE_DIR = Path(".penstock")
LOG_DIR = STATE_DIR / "logs"
_LOCK = "up.lock"
_ADDRESSES = "up.json"

DEFAULT_API_URL = "http://127.0.0.1:8000"


class Addresses(msgspec.Struct, frozen=True):
    """The addresses of this folder's fleet."""

    pid: int
    redis_url: str
    api_url: str


@contextlib.contextmanager
def hold_folder(folder: Path = STATE_DIR) -> Generator[None]:
    """Lock this folder against a second `penstock up`: its Redis files belong to one fleet.

    :raises StartupError: another one is running here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        if not _try_lock(lock):
            other = _read_addresses(folder)
            who = f" (process {other.pid}, {other.api_url})" if other else ""
            raise StartupError(f"penstock up already runs in this folder{who}; stop it first")
        (folder / _ADDRESSES).unlink(missing_ok=True)
        try:
            yield
        finally:
            (folder / _ADDRESSES).unlink(missing_ok=True)


def announce(addresses: Addresses, folder: Path = STATE_DIR) -> None:
    """Write the fleet's addresses for other commands; the caller holds the folder's lock."""
    (folder / _ADDRESSES).write_bytes(msgspec.json.encode(addresses))


def find(folder: Path = STATE_DIR) -> Addresses | None:
    """Return the addresses of the fleet that runs in this folder; None if there is none."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("r") as lock:
        if not _try_lock(lock, shared=True):
            return _read_addresses(folder)
    return None


def is_redis_set(settings: Settings) -> bool:
    """Whether the environment, or this folder's fleet, names a Redis."""
    return bool({"redis_url", "redis_sentinels"} & settings.model_fields_set)


def settings() -> Settings:
    """Return the settings, with the Redis of this folder's fleet if none is configured."""
    loaded = settings_module.load()
    if is_redis_set(loaded):
        return loaded
    here = find()
    return (
        loaded.model_copy(update={"redis_url": redis_address(here.redis_url)}) if here else loaded
    )


def api_url(given: str | None) -> str:
    """Return the API's address without `/v1`: as given, else this folder's fleet's, else port 8000."""
    if given:
        return given.rstrip("/").removesuffix("/v1")
    here = find()
    return here.api_url if here else DEFAULT_API_URL


def api_key(given: str | None) -> str:
    """Return the key to send: as given, else the first configured one, else a placeholder."""
    if given:
        return given
    keys = settings_module.load().api_keys
    return keys[0] if keys else "none"


def _try_lock(lock: IO[str], *, shared: bool = False) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_addresses(folder: Path) -> Addresses | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / _ADDRESSES).read_bytes(), type=Addresses)
    return None
