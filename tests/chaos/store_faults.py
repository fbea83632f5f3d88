"""Faults of the folders in which workers keep blocks of KV cache."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.chaos.fleet import Fleet


class StoreFaults:
    """Kinds of faults; the names of the methods are those of the kinds."""

    fleet: Fleet
    rng: random.Random

    def _folder(self) -> Path:
        return self.fleet.store_of(self.rng.randrange(len(self.fleet.workers)))

    async def damage_store(self) -> None:
        """Flip a bit in half of the files, or cut them off."""
        await asyncio.to_thread(self._damage, self._folder())

    def _damage(self, folder: Path) -> None:
        for path in folder.rglob("*.kv"):
            if self.rng.random() < 0.5:
                with contextlib.suppress(OSError, ValueError):  # it was evicted
                    _damage(path, self.rng)

    async def delete_store(self) -> None:
        """Delete a folder under its workers."""
        await asyncio.to_thread(shutil.rmtree, self._folder(), ignore_errors=True)

    async def block_store(self) -> None:
        """Put a file in a folder's place for a while: it can be neither read nor written."""
        folder = self._folder()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # a worker has just made the folder again
            folder.write_bytes(b"")
            await asyncio.sleep(self.rng.uniform(1.0, 5.0))
            folder.unlink()


def _damage(path: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    if rng.random() < 0.3:
        os.truncate(path, rng.randrange(size))
        return
    with path.open("r+b") as file:
        at = rng.randrange(size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
