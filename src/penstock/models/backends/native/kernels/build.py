"""Compiles the kernels to one shared library, with only the standard library: the build hook runs it.

`PENSTOCK_BUILD_NATIVE` selects the compiler: `auto` (the system's C++ compiler, if there is one, else
not at all), `zig` (the package `ziglang`, which needs nothing of the system, for Linux of any
distribution since 2014), `off`. With `zig` a failure is an error, else the library is left out,
and the backend reports that it is missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

VARIABLE: Final = "PENSTOCK_BUILD_NATIVE"
MODES: Final = ("auto", "zig", "off")
SOURCES: Final = Path(__file__).parent
LIBRARY: Final = SOURCES.parent / "libpenstock_native.so"
_STAMP: Final = LIBRARY.with_suffix(".json")

ZIG_PACKAGE: Final = "ziglang>=0.13,<0.18"
_ZIG_TARGET: Final = ("-target", "x86_64-linux-gnu.2.17")
_ZIG_TAG: Final = "manylinux_2_17_x86_64"
_COMPILERS: Final = ("c++", "g++", "clang++")

# No contraction: a row's result must not depend on which instructions a compiler joins in which
# variant.
_COMMON: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"),
    *("-g0", "-DNDEBUG"),
)
_AVX2: Final = ("-mavx2", "-mfma", "-mf16c")
_AVX512: Final = tuple(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni"))
_FLAGS: Final = {
    "kernels_avx2": _AVX2,
    "kernels_avx_vnni": (*_AVX2, "-mavxvnni"),
    "kernels_avx512": (*_AVX2, *_AVX512),
}
"""By source; all others must run on every x86-64 CPU, as they choose between these."""


class NotBuilt(Exception):
    """The library is missing; the message is one line about the reason."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """How to call a C++ compiler, and the wheel platforms that its output runs on."""

    command: tuple[str, ...]
    link: tuple[str, ...]
    tag: str


def mode() -> str:
    """:raises NotBuilt: the variable has another value."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in MODES:
        raise NotBuilt(f"{VARIABLE}={wanted!r}: it is one of {', '.join(MODES)}")
    return wanted


def is_possible() -> bool:
    """Return whether the kernels support this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def system_compiler() -> str | None:
    """Return the system's C++ compiler; `CXX` takes precedence."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, filter(None, (named, *_COMPILERS)))), None)


def find_compiler() -> Compiler:
    """:raises NotBuilt: there is none, or the build is off."""
    wanted = mode()
    if wanted == "off":
        raise NotBuilt(f"{VARIABLE}=off")
    if not is_possible():
        raise NotBuilt(f"no kernels for {sys.platform} on {platform.machine()}")
    if wanted == "zig":
        if importlib.util.find_spec("ziglang") is None:
            raise NotBuilt("the package ziglang is not installed")
        command = (sys.executable, "-m", "ziglang", "c++", *_ZIG_TARGET)
        return Compiler(command, (), _ZIG_TAG)
    found = system_compiler()
    if found is None:
        raise NotBuilt(f"no C++ compiler ({', '.join(_COMPILERS)}); {VARIABLE}=zig brings one")
    static = ("-static-libstdc++", "-static-libgcc")
    return Compiler((found,), static, "linux_x86_64")


def digest() -> str:
    """Return a digest of the sources and of the way they are compiled."""
    found = hashlib.blake2b(digest_size=16)
    for file in sorted((*SOURCES.rglob("*.cpp"), *SOURCES.rglob("*.h"), Path(__file__))):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def build() -> str:
    """Build the library unless it is up to date; return the wheel's platform.

    :raises NotBuilt: with one line about the reason.
    """
    compiler = find_compiler()
    stamp = {"digest": digest(), "command": compiler.command[1:], "tag": compiler.tag}
    if LIBRARY.exists() and _read_stamp() == json.loads(json.dumps(stamp)):
        return compiler.tag
    sources = sorted(SOURCES.rglob("*.cpp"))
    if not sources:
        raise NotBuilt(f"no sources in {SOURCES}")
    with tempfile.TemporaryDirectory(dir=SOURCES.parent, prefix=".build-") as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(partial(_compile, compiler), sources, objects))
        made = Path(folder) / LIBRARY.name
        linking = ("-shared", "-pthread", *compiler.link, "-s", "-o", str(made))
        _run((*compiler.command, *map(str, objects), *linking))
        made.replace(LIBRARY)  # processes that have mapped the old one keep it
    _STAMP.write_text(json.dumps(stamp))
    return compiler.tag


def remove() -> None:
    """Remove a library built from other sources, which would be packed or loaded by mistake."""
    for file in (LIBRARY, _STAMP):
        file.unlink(missing_ok=True)


def _compile(compiler: Compiler, source: Path, made: Path) -> None:
    folders = sorted({file.parent for file in SOURCES.rglob("*.h")})
    flags = (*_COMMON, *_FLAGS.get(source.stem, ()), *(f"-I{folder}" for folder in folders))
    _run((*compiler.command, *flags, "-c", str(source), "-o", str(made)))


def _run(command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise NotBuilt(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["failed"]
        raise NotBuilt(f"{' '.join(command[:3])}: {lines[0]}")


def _read_stamp() -> object:
    try:
        return json.loads(_STAMP.read_text())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    try:
        print(f"{LIBRARY}: {build()}")  # noqa: T201 - run by hand
    except NotBuilt as reason:
        sys.exit(f"not built: {reason}")
