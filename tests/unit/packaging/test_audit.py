"""The audit of dependencies: a known vulnerability fails it, missing data are reported."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.deploy.test_web_deploy import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def audit() -> Any:
    path = ROOT / "scripts" / "audit" / "__main__.py"
    spec = importlib.util.spec_from_file_location("penstock_audit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": [], **fields}


BAD = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}


def test_a_known_vulnerability_fails(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.judge([package("good"), package("bad", vulns=[BAD])]) == 1
    assert "bad 1.0: PYSEC-1, fixed in 1.1" in capsys.readouterr().out


def test_none_passes_and_unknown_packages_are_named(
    audit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    skipped = {"name": "penstock", "skip_reason": "not on PyPI"}
    assert audit.judge([package("good"), skipped]) == 0
    assert "1 packages audited, 0 vulnerable; unknown to the index: penstock" in (
        capsys.readouterr().out
    )


def test_an_index_without_advisories_is_not_an_audit(
    audit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.judge([{"name": "good", "skip_reason": "not found"}]) == 0
    assert "NOT AUDITED" in capsys.readouterr().out


class Advisories(http.server.BaseHTTPRequestHandler):
    """OSV's API for one package that is vulnerable."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        vulns = [ADVISORY] if asked["package"]["name"] == "bad" else []
        body = json.dumps({"vulns": vulns}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


ADVISORY = {
    "id": "GHSA-test",
    "summary": "it is bad",
    "affected": [
        {
            "package": {"name": "bad", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
            "versions": ["1.0"],
        }
    ],
}


@pytest.fixture
def osv_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(
    not (ROOT / ".venv-audit" / "bin" / "pip-audit").is_file(),
    reason="`make audit` has not installed pip-audit here; CI runs it first",
)
def test_an_advisory_of_a_server_fails_the_real_program(
    audit: Any,
    tmp_path: Path,
    osv_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, status in (("bad", 1), ("good", 0)):
        folder = tmp_path / name / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        monkeypatch.setattr(audit, "folders_of", lambda _python, at=folder: [str(at.parent)])
        assert audit.audit("python", osv_url) == status
        shown = capsys.readouterr().out
        assert f"1 packages audited, {status} vulnerable" in shown
        assert ("GHSA-test, fixed in 1.1" in shown) is bool(status)


ENDS = {
    "requests.exceptions.ConnectionError: Max retries exceeded": (0, "NOT AUDITED"),
    "ValueError: no such option": (1, "pip-audit failed: ValueError"),
}


@pytest.mark.parametrize("stderr", ENDS)
def test_a_program_that_ends_without_an_answer(
    audit: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stderr: str,
) -> None:
    status, shown = ENDS[stderr]
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{stderr}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(audit, "tools", lambda: tmp_path)
    monkeypatch.setattr(audit, "folders_of", lambda _python: ["/nowhere"])
    assert audit.audit("python") == status
    assert shown in capsys.readouterr().out


def test_ci_runs_it() -> None:
    assert "make sbom audit" in (ROOT / ".ci" / "run").read_text()
