"""Loads the fixtures, one file an area, all of them pytest plugins.

How tests share things: `make test` runs several processes of pytest (pytest-xdist) that deal the
tests out among themselves, so a session's fixture is made once in each of them: a Redis server
(`redis_server`; every test gets it empty and must leave it so), a Chromium, folders of tiny models.
What costs seconds to start (a real worker, a real API) is a module's fixture where its tests leave
it whole, else the test's own (`processes`). Ports are free ones, files lie in pytest's folders, and
nothing is at a fixed place: any two tests may run at the same time. `make test JOBS=0` runs them all
in one process, which a debugger and `-x` like better.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Threads of several processes that wait for each other cost tiny models more than all their sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("tests.fixtures")  # before one of them imports another

pytest_plugins = [
    f"tests.fixtures.{path.stem}"
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if path.stem != "__init__"
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a second try to what is marked `busy`, and to nothing else."""
    for item in items:
        if (marker := item.get_closest_marker("busy")) is not None:
            if not marker.kwargs.get("reason"):
                raise pytest.UsageError(f"{item.nodeid}: busy needs a reason")
            item.add_marker(pytest.mark.flaky(reruns=1))
