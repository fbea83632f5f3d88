"""How a suite of others went: read from the JUnit file that its runner has written."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from tests.fixtures.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

EXPECTED: Final = ROOT / "scripts" / "foreign" / "expected_failures.toml"
PROPERTY: Final = "outcome"
"""The property of a test's report that carries a suite's outcome to the summary."""


@dataclass
class Outcome:
    """A suite's tests, sorted. Those that are expected to fail have their reasons."""

    suite: str
    passed: int = 0
    skipped: int = 0
    expected: dict[str, str] = field(default_factory=dict[str, str])
    better: list[str] = field(default_factory=list[str])
    """Those that were expected to fail, and passed."""
    failed: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, suite: str, junit: Path) -> Outcome:
        """Return the outcome of a suite whose runner has written `junit`."""
        reasons: dict[str, str] = tomllib.loads(EXPECTED.read_text("utf-8")).get(suite, {})
        outcome = cls(suite)
        for case in ET.parse(junit).iter("testcase"):
            outcome._sort(case, reasons)
        return outcome

    def _sort(self, case: ET.Element, reasons: dict[str, str]) -> None:
        test, holder = str(case.get("name")), case.get("classname", "").rpartition(".")[2]
        name = f"{holder}::{test}" if holder[:1].isupper() else test
        reason = reasons.get(name) or reasons.get(test)
        skip = case.find("skipped")
        if skip is not None and skip.get("type") == "pytest.xfail":
            self.expected[name] = f"its own mark: {skip.get('message')}"
        elif skip is not None:
            self.skipped += 1
        elif case.find("failure") is None and case.find("error") is None:
            self.passed += 1
            self.better += [name] if reason else []
        elif reason:
            self.expected[name] = reason
        else:
            self.failed.append(name)

    def add(self, category: str, name: str) -> None:
        """Count a test of our own, by pytest's name for how it ended."""
        if category in ("failed", "error"):
            self.failed.append(name)
        elif category == "passed":
            self.passed += 1
        else:
            self.skipped += 1

    def fields(self) -> dict[str, Any]:
        """Return the outcome as plain values, which a test's report can carry."""
        return asdict(self)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of a table of suites, then the reasons of what failed as expected."""
    yield f"{'suite':20}{'passed':>8}{'skipped':>9}{'expected failures':>19}{'failed':>8}"
    for one in outcomes:
        counts = f"{one.passed:8}{one.skipped:9}{len(one.expected):19}{len(one.failed):8}"
        yield f"{one.suite:20}{counts}"
    for one in outcomes:
        for name, reason in one.expected.items():
            yield f"{one.suite}: {name} failed as expected: {reason}"
        for name in one.better:
            yield f"{one.suite}: {name} passed; expected_failures.toml need not name it"
        for name in one.failed:
            yield f"{one.suite}: {name} FAILED"
