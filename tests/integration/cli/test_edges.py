"""`penstock api` and `penstock worker` start ours, whatever packages the current folder has."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from penstock.cli import edges
from penstock.errors import StartupError
from tests.fixtures.processes import START_S, answers
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

PENSTOCK = [sys.executable, "-m", "penstock.cli"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with packages of the same names in it."""
    folder = tmp_path / "elsewhere"
    for name in ("api", "workers"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('foreign {name}')")
    return folder


def test_the_api_is_ours(processes: Processes, elsewhere: Path, redis_url: str) -> None:
    port = find_free_port()
    command = [*PENSTOCK, "api", "--port", str(port), "--no-access-log"]
    api = processes.start("api", command, {"PENSTOCK_REDIS_URL": redis_url}, elsewhere)
    url = f"http://127.0.0.1:{port}"
    api.wait_until(lambda: answers(f"{url}/health"))
    assert httpx.get(f"{url}/version").json()
    assert f"{elsewhere}/api is not Penstock's" in " ".join(api.output().split())
    assert "foreign" not in api.output()
    api.stop()


def test_the_worker_is_ours(processes: Processes, elsewhere: Path, redis_url: str) -> None:
    command = [*PENSTOCK, "worker", "-Q", "no-such-model-cpu", "--loglevel", "WARNING"]
    worker = processes.start("worker", command, {"PENSTOCK_REDIS_URL": redis_url}, elsewhere)
    assert worker.wait(START_S) != 0
    said = " ".join(worker.output().split())
    assert f"{elsewhere}/workers is not Penstock's" in said
    assert "no-such-model" in said
    assert "foreign" not in said


def test_several_api_processes_of_uvicorn_are_ours(
    processes: Processes, elsewhere: Path, redis_url: str
) -> None:
    port = find_free_port()
    command = [*PENSTOCK, "api", "--port", str(port), "--workers", "2"]
    api = processes.start("api", command, {"PENSTOCK_REDIS_URL": redis_url}, elsewhere)
    api.wait_until(lambda: api.output().count("startup complete") == 2)
    assert answers(f"http://127.0.0.1:{port}/health")
    api.stop()


def test_what_is_foreign(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    assert edges.foreign("api") == elsewhere / "api"
    monkeypatch.chdir(edges.folder_of("api").parent)
    assert edges.foreign("api") is None


def test_another_distributions_package_in_our_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site-packages/api").mkdir(parents=True)
    monkeypatch.setattr(
        "penstock.cli.edges.penstock.__file__", str(tmp_path / "site-packages/penstock/__init__.py")
    )
    with pytest.raises(StartupError, match="another distribution"):
        edges.folder_of("api")
