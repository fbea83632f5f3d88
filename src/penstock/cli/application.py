"""The commands of `penstock`, and what an error becomes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from penstock import __version__
from penstock.cli.bench.command import bench
from penstock.cli.chat import chat
from penstock.cli.console import out, show_error, verbosity
from penstock.cli.doctor import doctor
from penstock.cli.fleet.command import up
from penstock.cli.keys import keys, usage
from penstock.cli.models import models
from penstock.cli.quantize import quantize
from penstock.cli.status import status

app = typer.Typer(
    name="penstock",
    help="A self-hosted LLM serving fleet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(up)
app.command()(chat)
app.command()(models)
app.command()(quantize)
app.command()(status)
app.add_typer(keys, name="keys")
app.command()(usage)
app.command()(bench)
app.command()(doctor)


def _show_version(value: bool) -> None:
    if value:
        out.print(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """A self-hosted LLM serving fleet."""
    del version
    verbosity.debug = debug


def main() -> None:
    """Run one command; an error is one line on stderr and a non-zero exit code."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last stop before the shell
        sys.exit(show_error(error))
