"""Where FastChat's programs are: the environments that scripts/fastchat/setup.sh makes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.processes import ROOT

WANTED = os.environ.get("PENSTOCK_TEST_FASTCHAT", "")
"""Empty: none of these tests; `api`: those that need only the small environment; `all`."""
SMALL = ROOT / ".venv-fastchat-api"
SOURCES = SMALL / "fschat-0.2.36"


@dataclass(frozen=True)
class Environment:
    """An interpreter, and a folder with FastChat for one that has not got it installed."""

    folder: Path
    python: Path
    library: Path | None = None

    def found(self) -> Environment:
        """Return it, or skip the test."""
        for place in (self.python, self.library or self.folder):
            if not place.exists():
                pytest.skip(f"no {place} (make test-fastchat makes it)")
        return self


def _of(folder: Path) -> Environment:
    return Environment(folder, folder / "bin" / "python")


OPENAI_SERVER = _of(SMALL)
"""fastchat.serve.openai_api_server and controller."""
WEB_UI = _of(ROOT / ".venv-fastchat")
"""All but the OpenAI server, with the libraries that they run with."""
OURS = Environment(Path(sys.prefix), Path(sys.executable), SOURCES)
"""What needs torch, on that of our own environment: workers and test_message."""
WITH_TORCH = WEB_UI if WANTED == "all" else OURS
"""The environment of FastChat's workers and of test_message."""
