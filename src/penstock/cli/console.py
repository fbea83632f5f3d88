"""Where the commands write: results to stdout, everything about them to stderr."""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.segment import Segment

from penstock.errors import BadSettings, PenstockError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys, but for line breaks and tabs."""


def visible(text: str) -> str:
    """Return a text of others, such as an answer or a hub's licence, that controls no terminal."""
    return _CONTROLS.sub("\ufffd", text.replace("\r", ""))


class VisibleConsole(Console):
    """A console whose texts control no terminal; its own styles still do."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what is written, see `rich.console.Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


out = VisibleConsole(highlight=False)
err = VisibleConsole(stderr=True, highlight=False)


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
