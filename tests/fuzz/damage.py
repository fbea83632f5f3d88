"""Loads damaged copies of a model's folder, one after the other, in a process with little memory.

    python -m tests.fuzz.damage FOLDER SEED COUNT

Writes a line of JSON for each: the file, what came of it, and the seconds that it took.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

MOST_BYTES = 24 * 2**30
"""Of addresses, most of which the libraries map and never touch."""
MOST_S = 30
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1.5, -1e308, "", "x", "../../etc/passwd", [], [[]],
    {}, {"a": {}}, "\x00", "a" * 100_000, [None] * 1000,
)  # fmt: skip


def main(source: Path, seed: int, count: int) -> None:
    """Damage and load."""
    from penstock.errors import StartupError

    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.signal(signal.SIGPROF, _too_long)
    chance = random.Random(seed)
    files = sorted(path.name for path in source.iterdir() if path.is_file())
    for _ in range(count):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(shutil.copytree(source, Path(place) / "models" / "m"))
            name = chance.choice(files)
            how = damage(folder / name, chance)
            started_s = time.monotonic()
            signal.setitimer(signal.ITIMER_PROF, MOST_S)
            try:
                load(Path(place))
                outcome = "loaded"
            except StartupError as error:
                outcome = f"{type(error).__name__}: {error}"
            except BaseException as error:  # noqa: BLE001 - the test shows it
                where = traceback.extract_tb(error.__traceback__)[-4:]
                places = " < ".join(f"{one.filename}:{one.lineno}" for one in reversed(where))
                outcome = f"UNEXPECTED {type(error).__name__}: {error} at {places}"
            signal.setitimer(signal.ITIMER_PROF, 0)
        line = {"file": name, "how": how, "outcome": outcome}
        sys.stdout.write(json.dumps({**line, "seconds": time.monotonic() - started_s}) + "\n")
        sys.stdout.flush()


class TooLong(BaseException):
    """Nothing that handles errors may take it for one of a model's."""


def _too_long(*_: Any) -> None:
    raise TooLong(f"no end after {MOST_S} s of computing")


def load(place: Path) -> None:
    """Load the model as a worker does when it starts."""
    from penstock.settings import Settings
    from workers.serving import startup
    from workers.serving.loading import load as load_model

    settings = Settings(
        models_dir=place / "models",
        models_file=place / "models.toml",
        converted_bytes=0,
        threads=1,
        slots=1,
        kv_cache_bytes=2**20,
    )
    load_model(startup._resolve("m-cpu", settings), settings)


def damage(path: Path, chance: random.Random) -> str:
    """Change a file, and return how."""
    ways = [cut, flipped, grown]
    if path.suffix == ".json":
        ways += [odd_value] * 6
    elif path.suffix == ".safetensors":
        ways += [odd_header, odd_length] * 3
    elif path.suffix == ".gguf":
        ways += [flipped_head] * 6
    elif path.suffix == ".jinja":
        ways += [odd_template] * 3
    way = chance.choice(ways)
    path.write_bytes(way(path.read_bytes(), chance))
    return way.__name__


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def flipped_head(content: bytes, chance: random.Random) -> bytes:
    return flipped(content[:4096], chance) + content[4096:]


def grown(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    filler = chance.choice([b"[" * 50_000, b'{"a":' * 20_000, b"\x00" * 1000, b"\xff\xfe"])
    return content[:place] + filler + content[place:]


def odd_value(content: bytes, chance: random.Random) -> bytes:
    """Replace a value somewhere in a document, or leave it out."""
    document = json.loads(content)
    here, steps = document, chance.randint(1, 4)
    for step in range(steps):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = chance.choice(keys)
        if step == steps - 1 or not isinstance(here[key], dict | list):
            if chance.random() < 0.2:
                del here[key]
            else:
                here[key] = chance.choice(ODD)
            break
        here = here[key]
    return json.dumps(document).encode()


def odd_header(content: bytes, chance: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = odd_value(content[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def odd_length(content: bytes, chance: random.Random) -> bytes:
    length = chance.choice([0, 1, 7, len(content), 2**31, 2**62, 2**64 - 1])
    return struct.pack("<Q", length) + content[8:]


def odd_template(_content: bytes, chance: random.Random) -> bytes:
    return chance.choice(
        [
            b"{{", b"{% for %}", b"{{ messages", b"{% include '/etc/passwd' %}",
            b"{{ ''.__class__.__mro__[1].__subclasses__() }}", b"\xff\xfe", b"{{ 'a' * 10**9 }}",
            b"{% for a in range(10**9) %}{% endfor %}x", b"{{ raise_exception('no') }}", b"",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
