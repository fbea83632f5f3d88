"""Where the commands write: answers to stdout, everything about them to stderr."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass

from rich.console import Console

from penstock.errors import BadSettings, PenstockError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@dataclass
class Verbosity:
    """Set once by `--debug`, read when an error is shown."""

    debug: bool = False


verbosity = Verbosity()


def note(text: str) -> None:
    """Write one line about what is going on."""
    err.print(text, soft_wrap=True)


def show_error(error: Exception) -> int:
    """Print an error as one line and return the exit code that goes with it.

    Ours are 1 (2 for a bad setting); anything else is a defect, and says so.
    """
    if verbosity.debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, PenstockError):
        err.print("[bold red]error:[/]", error.message, markup=True, soft_wrap=True)
        return 2 if isinstance(error, BadSettings) else 1
    text = f"{type(error).__name__}: {error}"
    err.print("[bold red]error:[/] unexpected", text, "(penstock --debug ... shows where)")
    return 1
