"""Loads the fixtures, one file an area, all of them pytest plugins.

How tests share things: `make test` runs several processes of pytest (pytest-xdist) that deal the
tests out among themselves, so a session's fixture is made once in each of them: a Redis server
(`redis_server`; every test gets it empty and must leave it so), a Chromium, folders of tiny models.
What costs seconds to start (a real worker, a real API) is a module's fixture where its tests leave
it whole, else the test's own (`processes`); most are forks of a process that has imported their
libraries (`tests/fixtures/preloaded.py`). Ports are free ones, files lie in pytest's folders, and
nothing is at a fixed place: any two tests may run at the same time. `make test JOBS=0` runs them all
in one process, which a debugger and `-x` like better.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# Threads of several processes that wait for each other cost tiny models more than all their sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example may take any time: other work on the machine would decide otherwise.
hypothesis.settings.register_profile("any-time", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("any-time")

pytest.register_assert_rewrite("tests.fixtures")  # before one of them imports another

HAS_TORCH = importlib.util.find_spec("torch") is not None
OURS = frozenset({"api", "penstock", "tests", "workers"})


def is_lacking(error: BaseException | None) -> bool:
    """Whether a library is missing; without torch, tests of others run (`make test-pythons`)."""
    if HAS_TORCH or not isinstance(error, ModuleNotFoundError):
        return False
    return (error.name or "").partition(".")[0] not in OURS


def loadable(plugin: str) -> bool:
    """Whether a file of fixtures can be imported; without torch some cannot."""
    if HAS_TORCH:
        return True
    try:
        importlib.import_module(plugin)
    except ModuleNotFoundError as error:
        if is_lacking(error):
            return False
        raise
    return True


pytest_plugins = [
    plugin
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if path.stem != "__init__" and loadable(plugin := f"tests.fixtures.{path.stem}")
]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a file of tests that needs a library of models where there is none."""
    report = yield
    if not HAS_TORCH and report.failed and report.call is not None and report.call.excinfo:
        cause = report.call.excinfo.value.__cause__
        if is_lacking(cause):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, str(cause))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a second try to what is marked `busy`, and to nothing else."""
    for item in items:
        if (marker := item.get_closest_marker("busy")) is not None:
            if not marker.kwargs.get("reason"):
                raise pytest.UsageError(f"{item.nodeid}: busy needs a reason")
            item.add_marker(pytest.mark.flaky(reruns=1))
