"""Suites of others, each in the environment that it runs in, on our fleet."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SUITES = ROOT / "scripts" / "foreign"
NODE = SUITES / "node"


def run(command: list[str], url: str, cwd: Path = ROOT, **more: str) -> None:
    """Run a suite; its output is shown where it fails."""
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PENSTOCK_TEST_URL": url,
            "PYTHONPATH": "",
            **more,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=550,
    )
    print(done.stdout[-20_000:])  # noqa: T201 - pytest shows it
    assert done.returncode == 0


@pytest.mark.parametrize("suite", ["openai", "anthropic", "vercel"])
def test_node(suite: str, url: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("no node_modules (make test-foreign installs them)")
    run([node, "--test", f"{suite}.test.mjs"], url, NODE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", ["langchain", "litellm", "lm-eval"])
def test_python(suite: str, url: str, tiny_llama: Path) -> None:
    python = ROOT / f".venv-foreign-{suite}" / "bin" / "python"
    if not os.environ.get("PENSTOCK_TEST_FOREIGN"):
        pytest.skip("takes minutes; make test-foreign runs it")
    if not python.exists():
        pytest.skip(f"no {python.parents[1].name} (make test-foreign makes it)")
    tests = str(SUITES / f"{suite.replace('-', '_')}_suite.py")
    command = [str(python), "-m", "pytest", "-q", "-rxXs", "-p", "no:cacheprovider", tests]
    run(command, url, PENSTOCK_TEST_TINY_LLAMA=str(tiny_llama))
