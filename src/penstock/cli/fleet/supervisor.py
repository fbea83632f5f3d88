"""Keeps the children running, and stops them in order."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.cli.fleet.child import Child

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
_STEADY_S = 60.0
"""A child that ran this long restarts with the shortest delay."""
_POLL_S = 0.05


@dataclass
class _Member:
    child: Child
    failures: int = 0
    restart_at: float | None = None


@dataclass
class Supervisor:
    """The children in starting order; a tier is stopped before the ones started earlier.

    Only the main thread uses it. `report` is called with one line for each event.
    """

    report: Callable[[str], None]
    tiers: list[list[_Member]] = field(default_factory=list[list[_Member]])

    def start_tier(self, *children: Child) -> None:
        """Start children that do not depend on each other."""
        self.tiers.append([_Member(child) for child in children])
        for child in children:
            child.rotate_log()
            child.start()

    def dead(self) -> list[Child]:
        """Return the children that have exited."""
        return [member.child for member in self._members() if member.child.exit_code() is not None]

    def keep_running(self) -> None:
        """Check every child once: note those that died, and restart those that are due."""
        now = time.monotonic()
        for member in self._members():
            if member.child.running():
                continue
            if member.restart_at is None:
                self._notice_death(member, now)
            elif now >= member.restart_at:
                member.restart_at = None
                member.child.start()
                self.report(f"{member.child.name}: started again")

    def stop_all(self, *, hurry: Callable[[], bool]) -> None:
        """Stop every tier, the last one first; `hurry` returning True kills what is left."""
        for tier in reversed(self.tiers):
            for member in tier:
                member.child.send(signal.SIGTERM)
            for member in tier:
                self._await_end(member.child, hurry)
        self.tiers.clear()

    def _await_end(self, child: Child, hurry: Callable[[], bool]) -> None:
        end = time.monotonic() + child.patience_s
        while child.running() and not hurry() and time.monotonic() < end:
            time.sleep(_POLL_S)
        if child.running():
            self.report(f"{child.name}: did not end in time, killed")
        child.kill()

    def _notice_death(self, member: _Member, now: float) -> None:
        if now - member.child.started_at > _STEADY_S:
            member.failures = 0
        delay = min(_FIRST_DELAY_S * 2**member.failures, _LONGEST_DELAY_S)
        member.failures += 1
        member.restart_at = now + delay
        self.report(f"{describe_end(member.child)}; starts again in {delay:.0f} s")
        for line in member.child.tail(3):
            self.report(f"  {member.child.name} | {line}")

    def _members(self) -> list[_Member]:
        return [member for tier in self.tiers for member in tier]


def describe_end(child: Child) -> str:
    """Return how a child ended: `worker-demo-cpu was ended by SIGKILL`."""
    code = child.exit_code()
    if code is not None and code < 0:
        return f"{child.name} was ended by {signal.Signals(-code).name}"
    return f"{child.name} ended with exit code {code}"
