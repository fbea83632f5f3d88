"""One child process with its own log file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LAUNCHER = Path(__file__).with_name("launcher.py")
_TAIL_BYTES = 16 * 1024


@dataclass
class Child:
    """A program, and how to start and stop it.

    It runs in its own session, so that Ctrl-C on the terminal reaches only `penstock up`, which
    then stops its children in order. `orphan_signal` is what the kernel sends it if `penstock up`
    is killed. Start it from the main thread only: the kernel watches the parent's thread.
    """

    name: str
    command: Sequence[str]
    log_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    orphan_signal: signal.Signals = signal.SIGKILL
    patience_s: float = 10.0
    """How long it may take to exit after SIGTERM before it is killed."""
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0

    @property
    def log_path(self) -> Path:
        """The file that its output goes to."""
        return self.log_dir / f"{self.name}.log"

    def start(self) -> None:
        """Start it, or start it again; the log is appended to."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        launch = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        launch += [str(int(self.orphan_signal)), *self.command]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                launch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """Return its exit code; None while it runs or before it was started."""
        return self.process.poll() if self.process else None

    def running(self) -> bool:
        """Return whether it was started and has not exited."""
        return self.process is not None and self.process.poll() is None

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.running():
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal_number)

    def kill(self) -> None:
        """Kill it and all of its own child processes."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 10) -> list[str]:
        """Return the last lines of its log; a redrawn progress bar counts as one line."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
            drawn = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
            return [line for line in drawn if line][-lines:]
        return []

    def rotate_log(self) -> None:
        """Rename the previous run's log to `.log.1`."""
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
