"""`python3 -m penstock.serving.model_worker --model-path ... --device cpu`.

Runs a Celery worker on the model's queue. With a FastChat controller it also runs an API at
`--worker-address`, which registers there and implements FastChat's worker protocol.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from penstock import settings as penstock_settings
from penstock.errors import StartupError
from penstock.models.catalogue import resolve
from penstock.serving import flags
from penstock.serving.plan import Plan, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL_S = 0.2


def worker_command(chosen: Plan) -> list[str]:
    """Return Celery's command line."""
    command = [sys.executable, "-m", "celery", "-A", "workers", "worker", "-Q", chosen.queue]
    command += ["-n", f"{chosen.queue}-{os.getpid()}@%h", "-l", "DEBUG" if chosen.debug else "INFO"]
    return command + (["-c", str(chosen.slots)] if chosen.slots else [])


def api_command(chosen: Plan) -> list[str]:
    """Return uvicorn's command line."""
    at = ["--host", chosen.host, "--port", str(chosen.port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "api:app", *at]


def run_both(chosen: Plan, environment: dict[str, str]) -> int:
    """Run worker and API until one of them ends or a signal arrives; return the exit code."""
    registering = {
        **environment,
        "PENSTOCK_FASTCHAT_CONTROLLER": chosen.controller,
        "PENSTOCK_PUBLIC_URL": chosen.address,
    }
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: signals.append(number))
    children = [
        subprocess.Popen(worker_command(chosen), env=environment),
        subprocess.Popen(api_command(chosen), env=registering),
    ]
    while not signals and all(child.poll() is None for child in children):
        time.sleep(POLL_S)
    codes = [child.poll() for child in children]
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
    return next((code for code in codes if code), 0) if not signals else 0


def _report(text: str) -> None:
    sys.stderr.write(f"penstock: {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Start what the command line asks for; returns only if an API was started too, or on errors."""
    flags_ = flags.parser().parse_args(arguments)
    try:
        settings = penstock_settings.load()
        chosen = plan(flags_, settings)
        chosen.models_file.parent.mkdir(parents=True, exist_ok=True)
        chosen.models_file.write_text(chosen.entry, encoding="utf-8")
        resolve.resolve(
            chosen.queue, settings.model_copy(update={"models_file": chosen.models_file})
        )
    except (StartupError, OSError) as error:
        _report(str(error))
        return 1
    for warning in chosen.warnings:
        _report(f"ignored: {warning}")
    environment = {
        **os.environ,
        **chosen.environment,
        "PENSTOCK_MODELS_FILE": str(chosen.models_file.resolve()),
    }
    if chosen.controller:
        return run_both(chosen, environment)
    _report(f"{flags_.model_path} joins the fleet on queue {chosen.queue}")
    os.execve(sys.executable, worker_command(chosen), environment)  # noqa: S606  without a shell
    return 1


if __name__ == "__main__":
    sys.exit(main())
