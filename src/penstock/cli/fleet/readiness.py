"""Waits for Redis, the workers' models and the API, and shows their progress."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from penstock.cli import census
from penstock.cli.console import err
from penstock.cli.fleet.supervisor import describe_end
from penstock.cli.running import LOG_DIR
from penstock.errors import StartupError, StoreUnavailable
from penstock.transport.store import sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import TaskID

    from penstock.cli.fleet.child import Child
    from penstock.cli.fleet.supervisor import Supervisor
    from penstock.settings import Settings

_POLL_S = 0.2
_REDIS_PATIENCE_S = 30.0
_LOADING = re.compile(r"Loading \S+: (\d{1,3}) %, (.*)")


@dataclass(frozen=True)
class Awaited:
    """A worker, the queue that it is to serve, and the API that should list its model."""

    worker: Child
    queue: str
    model: str
    api_url: str
    key: str


@dataclass
class Startup:
    """The start of a fleet: waits until every child is alive and every model is served."""

    supervisor: Supervisor
    progress: Progress

    @classmethod
    def make(cls, supervisor: Supervisor) -> Startup:
        """Return a start with a live display; on a pipe it prints a line for each thing ready."""
        columns = (
            SpinnerColumn(finished_text="[green]ok[/]"),
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
        )
        progress = Progress(*columns, console=err, disable=not err.is_terminal)
        return cls(supervisor, progress)

    def await_redis(self, settings: Settings) -> None:
        """Wait until Redis answers.

        :raises StartupError: it does not answer within 30 s, or refuses us.
        """
        address = sentinel.address(settings)
        row = self.progress.add_task("Redis", total=1, what=address)
        last = ""

        def answers() -> bool:
            nonlocal last
            try:
                census.take(settings, patience_s=_POLL_S)
            except StoreUnavailable as error:
                if error.is_refused:
                    raise StartupError(f"{address}: {error.message}") from error
                last = error.message
                return False
            return True

        self._wait(answers, patience_s=_REDIS_PATIENCE_S, late=lambda: f"{address}: {last}")
        self._done(row, "Redis", address)

    def await_api(self, name: str, url: str, patience_s: float) -> None:
        """Wait until an API process answers.

        :raises StartupError: it does not answer within `patience_s`.
        """
        row = self.progress.add_task(name, total=1, what=url)
        self._wait(
            lambda: _get(f"{url}/health", {}) is not None,
            patience_s=patience_s,
            late=lambda: f"the API does not answer at {url} after {patience_s:.0f} s",
        )
        self._done(row, name, url)

    def await_models(
        self, awaited: Sequence[Awaited], settings: Settings, patience_s: float
    ) -> None:
        """Wait until every worker has announced its queue and the API lists its model.

        :raises StartupError: a worker exits, or `patience_s` is over.
        """
        rows = {
            entry.queue: self.progress.add_task(entry.worker.name, total=100, what="starting")
            for entry in awaited
        }
        waiting = list(awaited)

        def all_served() -> bool:
            announced = _announced(settings)
            for entry in list(waiting):
                pid = entry.worker.process.pid if entry.worker.process else 0
                if (pid, entry.queue) in announced and entry.model in _listed(
                    entry.api_url, entry.key
                ):
                    waiting.remove(entry)
                    self._done(rows[entry.queue], entry.worker.name, f"serves {entry.model}")
                else:
                    self._show_loading(rows[entry.queue], entry.worker)
            return not waiting

        def late() -> str:
            names = ", ".join(entry.queue for entry in waiting)
            return f"no worker serves {names} after {patience_s:.0f} s (see {LOG_DIR}, --patience)"

        self._wait(all_served, patience_s=patience_s, late=late)

    def _wait(self, ready: Callable[[], bool], patience_s: float, late: Callable[[], str]) -> None:
        end = time.monotonic() + patience_s
        while not ready():
            if dead := self.supervisor.dead():
                raise StartupError(_reason_of_end(dead[0]))
            if time.monotonic() > end:
                raise StartupError(late())
            time.sleep(_POLL_S)

    def _show_loading(self, row: TaskID, child: Child) -> None:
        """Show a loader's progress, read from the last line of its log."""
        match = _LOADING.search(next(iter(child.tail(1)), ""))
        if match is not None:
            self.progress.update(row, completed=int(match[1]), what=match[2])

    def _done(self, row: TaskID, name: str, what: str) -> None:
        total = self.progress.tasks[row].total
        self.progress.update(row, completed=total, what=what)
        if self.progress.disable:
            err.print(f"{name}: {what}", soft_wrap=True)


def _reason_of_end(child: Child) -> str:
    """Return one line about a child's end, with its last line of output as the reason."""
    lines = child.tail(1)
    why = f": {lines[-1]}" if lines else ""
    return f"{describe_end(child)}{why} (its log: {child.log_path})"


def _announced(settings: Settings) -> set[tuple[int, str]]:
    try:
        return census.serving(settings)
    except StoreUnavailable:
        return set()


def _listed(url: str, key: str) -> set[str]:
    answer = _get(f"{url}/v1/models", {"Authorization": f"Bearer {key}"})
    if answer is None or not answer.is_success:
        return set()
    return {str(model["id"]) for model in answer.json()["data"]}


def _get(url: str, headers: dict[str, str]) -> httpx.Response | None:
    try:
        return httpx.get(url, headers=headers, timeout=2.0)
    except httpx.TransportError:
        return None
