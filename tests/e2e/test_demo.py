"""What `make demo ARGS=--once` runs once the install is there: the shipped model, the default ports."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_prints_an_answer_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_REDIS_URL", raising=False)
    options = ["--once", "--port", str(find_free_port()), "--fastchat-port", "0"]
    options += ["--redis-port", str(find_free_port())]
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "up", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PENSTOCK_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "worker-bigdl-demo-cpu: serves bigdl-demo" in done.stderr
    assert "What is Penstock?" in done.stderr
    assert "self-hosted serving fleet" in done.stdout
    assert "\ufffd" not in done.stdout
    assert "Penstock is ready" not in done.stderr
