"""What other commands learn of a fleet that `penstock up` runs in this folder.

`up` holds a lock on `.penstock/up.lock` for as long as it lives and writes its addresses beside it,
so that `penstock status` in another terminal needs no set-up. An explicit PENSTOCK_REDIS_URL or
`--url` always wins.
"""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from penstock import settings as settings_module
from penstock.errors import StartupError
from penstock.settings import redis_address

if TYPE_CHECKING:
    from collections.abc import Generator

    from penstock.settings import Settings

STATE_DIR = Path(".penstock")
LOG_DIR = STATE_DIR / "logs"
_LOCK = "up.lock"
_ADDRESSES = "up.json"

DEFAULT_API_URL = "http://127.0.0.1:8000"


class Addresses(msgspec.Struct, frozen=True):
    """Where a fleet of this folder is to be found."""

    pid: int
    redis_url: str
    api_url: str


@contextlib.contextmanager
def hold_folder(folder: Path = STATE_DIR) -> Generator[None]:
    """Keep a second `penstock up` out of this folder, whose Redis files are one fleet's.

    :raises StartupError: another one runs here.
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
    """Tell other commands where the fleet is; the caller holds the folder."""
    (folder / _ADDRESSES).write_bytes(msgspec.json.encode(addresses))


def find(folder: Path = STATE_DIR) -> Addresses | None:
    """Return the addresses of the fleet that runs in this folder, if one does."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("r") as lock:
        if not _try_lock(lock, shared=True):
            return _read_addresses(folder)
    return None


def settings() -> Settings:
    """Return the settings, with the Redis of this folder's fleet where none was set."""
    found = settings_module.load()
    if {"redis_url", "redis_sentinels"} & found.model_fields_set:
        return found
    here = find()
    return found.model_copy(update={"redis_url": redis_address(here.redis_url)}) if here else found


def api_url(given: str | None) -> str:
    """Return the API's address without `/v1`: as given, else this folder's fleet's, else 8000."""
    if given:
        return given.rstrip("/").removesuffix("/v1")
    here = find()
    return here.api_url if here else DEFAULT_API_URL


def api_key(given: str | None) -> str:
    """Return the key to send: as given, else the first that the settings accept, else a filler."""
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
