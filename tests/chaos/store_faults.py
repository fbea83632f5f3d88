"""Faults of the store of KV blocks: damaged, deleted, unplugged, full, read-only."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.chaos.fleet import Fleet

MOST_DAMAGED = 50
LEAST_S, MOST_S = 0.5, 4.0


def can_mount() -> bool:
    """Whether this process may put file systems over folders."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


class StoreFaults:
    """Kinds of faults; the names of the methods are those of the kinds."""

    fleet: Fleet
    rng: random.Random

    @property
    def _store(self) -> Path:
        return self.fleet.kv_store

    async def _last(self) -> None:
        await asyncio.sleep(self.rng.uniform(LEAST_S, MOST_S))

    async def damage_store(self) -> None:
        """Flip bits of some files, cut others, and exchange the contents of others."""
        files = sorted(self._store.rglob("*.kv"))
        for path in self.rng.sample(files, min(MOST_DAMAGED, len(files))):
            with suppress(OSError, IndexError):
                content = bytearray(path.read_bytes())
                kind = self.rng.randrange(3)
                if kind == 0:
                    content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
                elif kind == 1:
                    del content[self.rng.randrange(len(content)) :]
                else:
                    content = bytearray(self.rng.choice(files).read_bytes())
                path.write_bytes(content)

    async def delete_store(self) -> None:
        """Delete the store under the workers."""
        await asyncio.to_thread(shutil.rmtree, self._store, ignore_errors=True)

    async def unplug_store(self) -> None:
        """Have a file in the folder's place for a while."""
        away = self._store.with_suffix(".away")
        with suppress(OSError):
            self._store.rename(away)
        with suppress(OSError):  # a worker may have made the folder again
            self._store.write_text("no folder")
        await self._last()
        if self._store.is_file():
            self._store.unlink()
        with suppress(OSError):
            away.rename(self._store)
        shutil.rmtree(away, ignore_errors=True)

    async def fill_store(self) -> None:
        """Have a disk that is full after some blocks."""
        await self._mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(self._store))

    async def lock_store(self) -> None:
        """Have a disk that is read-only."""
        await self._mounted("-t", "tmpfs", "-o", "ro", "tmpfs", str(self._store))

    async def _mounted(self, *arguments: str) -> None:
        self._store.mkdir(mode=0o700, exist_ok=True)
        await asyncio.to_thread(subprocess.run, ["mount", *arguments], check=True)
        try:
            await self._last()
        finally:
            command = ["umount", "--lazy", str(self._store)]
            await asyncio.to_thread(subprocess.run, command, check=True)
