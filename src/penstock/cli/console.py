"""Where the commands write: results to stdout, everything about them to stderr."""

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
    """Set once by `--debug`, read when an error is printed."""

    debug: bool = False


verbosity = Verbosity()


def note(text: str) -> None:
    """Write one line of progress to stderr; `text` is Rich markup."""
    err.print(text, soft_wrap=True)


def write_line(text: str) -> None:
    """Write one line to stderr, without markup."""
    err.print(text, soft_wrap=True, markup=False)


def show_error(error: Exception) -> int:
    """Print an error as one line and return its exit code.

    Penstock's own errors give 1 (2 for a bad setting); any other error is reported as a defect.
    """
    if verbosity.debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, PenstockError):
        note(f"[bold red]error:[/] {escape(error.message)}")
        return 2 if isinstance(error, BadSettings) else 1
    text = f"{type(error).__name__}: {error}"
    note(
        f"[bold red]error:[/] unexpected {escape(text)} (penstock --debug ... shows the traceback)"
    )
    return 1
