"""Suites of others, each in the environment that it runs in, on our fleet.

What they may fail in, the demo model's skill, is named in scripts/foreign/expected_failures.toml.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.processes import ROOT
from tests.foreign.outcome import PROPERTY, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUITES = ROOT / "scripts" / "foreign"
NODE = SUITES / "node"


@pytest.fixture
def judge(
    url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Callable[..., None]:
    """What runs a suite and fails on each failure that is not expected; its output is shown then."""

    def run(suite: str, command: list[str], cwd: Path = ROOT, **more: str) -> None:
        junit = tmp_path / "junit.xml"
        done = subprocess.run(
            [part.replace("JUNIT", str(junit)) for part in command],
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
        outcome = Outcome.read(suite, junit)
        record_property(PROPERTY, outcome.fields())
        assert outcome.failed == []
        assert outcome.passed > 0
        assert done.returncode == 0 or outcome.expected

    return run


@pytest.mark.parametrize("suite", ["openai", "anthropic", "vercel", "ollama"])
def test_node(suite: str, judge: Callable[..., None]) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("no node_modules (make test-foreign installs them)")
    reporters = [
        "--test-reporter=spec", "--test-reporter-destination=stdout",
        "--test-reporter=junit", "--test-reporter-destination=JUNIT",
    ]  # fmt: skip
    judge(f"{suite}-node", [node, "--test", *reporters, f"{suite}.test.mjs"], NODE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", ["langchain", "litellm", "lm-eval"])
def test_python(suite: str, judge: Callable[..., None], tiny_llama: Path) -> None:
    python = ROOT / f".venv-foreign-{suite}" / "bin" / "python"
    if not os.environ.get("PENSTOCK_TEST_FOREIGN"):
        pytest.skip("takes minutes; make test-foreign runs it")
    if not python.exists():
        pytest.skip(f"no {python.parents[1].name} (make test-foreign makes it)")
    tests = str(SUITES / f"{suite.replace('-', '_')}_suite.py")
    options = ["-q", "-rxXs", "-p", "no:cacheprovider", "--junitxml=JUNIT"]
    command = [str(python), "-m", "pytest", *options, tests]
    judge(suite, command, PENSTOCK_TEST_TINY_LLAMA=str(tiny_llama))
