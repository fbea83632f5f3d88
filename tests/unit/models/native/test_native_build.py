"""Compiling the kernels: by whom, when again, and what a failure says."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.models.backends.native.kernels import build

ROOT = Path(__file__).resolve().parents[4]

needs_compiler = pytest.mark.skipif(
    not build.is_possible() or build.system_compiler() is None, reason="no C++ compiler"
)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with one small source, in place of the kernels'."""
    folder = tmp_path / "native" / "kernels"
    folder.mkdir(parents=True)
    folder.joinpath("one.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }'
    )
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setattr(build, "LIBRARY", folder.parent / "libpenstock_native.so")
    monkeypatch.setattr(build, "_STAMP", folder.parent / "libpenstock_native.json")
    monkeypatch.delenv(build.VARIABLE, raising=False)
    return folder


@needs_compiler
def test_builds_once_and_again_when_a_source_changes(sources: Path) -> None:
    assert build.build() == "linux_x86_64"
    first = build.LIBRARY.stat()
    assert ctypes.CDLL(str(build.LIBRARY)).answer() == 42
    build.build()
    assert build.LIBRARY.stat().st_ino == first.st_ino, "nothing has changed"
    sources.joinpath("two.h").write_text("// a header")
    build.build()
    assert build.LIBRARY.stat().st_ino != first.st_ino
    assert [path.name for path in build.LIBRARY.parent.glob(".build-*")] == []


@needs_compiler
def test_a_compilers_error_is_one_line(sources: Path) -> None:
    sources.joinpath("two.cpp").write_text("this is no C++;")
    with pytest.raises(build.NotBuilt, match=r"error: .*this") as failed:
        build.build()
    assert "\n" not in str(failed.value)
    assert not build.LIBRARY.exists()


@pytest.mark.parametrize(
    ("wanted", "says"), [("off", "=off"), ("gcc", "it is one of auto, zig, off")]
)
def test_what_the_variable_means(
    sources: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, says: str
) -> None:
    monkeypatch.setenv(build.VARIABLE, wanted)
    with pytest.raises(build.NotBuilt, match=says):
        build.build()


@pytest.mark.skipif(not build.is_possible(), reason="not Linux on x86-64")
def test_without_a_compiler_it_names_what_brings_one(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.NotBuilt, match=r"no C\+\+ compiler.*PENSTOCK_BUILD_NATIVE=zig"):
        build.build()


def test_a_wheel_without_the_library_is_for_every_platform(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    for name in ("pyproject.toml", "hatch_build.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("src/penstock/models/backends/native", "src/penstock/contract", "api", "workers"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    env = {"PATH": "/nowhere"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=60, text=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "the native backend is left out" in done.stdout + done.stderr
