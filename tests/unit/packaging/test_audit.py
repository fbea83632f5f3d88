"""The audit of dependencies: a known vulnerability fails it, missing data are reported."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.deploy.test_web_deploy import ROOT

if TYPE_CHECKING:
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
