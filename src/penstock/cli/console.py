"""Where the commands write: answers to stdout, everything about them to stderr."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from penstock.errors import BadSettings, PenstockError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@dataclass
class Verbosity:
    """Set once by `--debug`, read when an error is shown."""

    debug: bool = False


verbosity = Verbosity()


def note(text: str) -> None:
    """Write one line about what is going on; `text` is Rich's markup."""
    err.print(text, soft_wrap=True)


def say(text: str) -> None:
    """Write one line as it stands."""
    err.print(text, soft_wrap=True, markup=False)


def show_error(error: Exception) -> int:
    """Print an error as one line and return the exit code that goes with it.

    Ours are 1 (2 for a bad setting); anything else is a defect, and says so.
    """
    if verbosity.debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, PenstockError):
        note(f"[bold red]error:[/] {escape(error.message)}")
        return 2 if isinstance(error, BadSettings) else 1
    text = f"{type(error).__name__}: {error}"
    note(f"[bold red]error:[/] unexpected {escape(text)} (penstock --debug ... shows where)")
    return 1
