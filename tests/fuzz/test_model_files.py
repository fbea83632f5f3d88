"""Models' files damaged by structure: the loader loads them or ends with one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.fuzz import damage
from tests.unit.deploy.test_web_deploy import ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = 4 * int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
LONGEST_LINE = 2_000


def check(folder: Path, seed: int) -> None:
    """Fail unless each damaged copy of a folder is loaded or refused in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.damage", str(folder), str(seed), str(EXAMPLES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120 + EXAMPLES * damage.MOST_S,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == EXAMPLES, (lines[-1:], done.returncode, done.stderr[-3000:])
    wrong = [
        line
        for line in lines
        if line["outcome"].startswith("UNEXPECTED")
        or "\n" in line["outcome"]
        or len(line["outcome"]) > LONGEST_LINE
    ]
    assert not wrong, "\n".join(str(line)[:600] for line in wrong)
    assert any(line["outcome"] != "loaded" for line in lines)


@pytest.mark.timeout(180 + EXAMPLES * damage.MOST_S)
def test_a_damaged_folder_is_one_line(tiny_llama: Path) -> None:
    check(tiny_llama, 1)


@pytest.mark.timeout(180 + EXAMPLES * damage.MOST_S)
def test_a_damaged_gguf_is_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    from tests.fixtures import gguf_files  # needs the package gguf, which every worker has

    folder, _ = gguf_files.write(tiny_llama, tmp_path / "m", "Q8_0")
    check(folder, 2)
