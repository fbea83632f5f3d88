"""`penstock pull`: fetches a model from a Hugging Face hub into the models folder."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape

from penstock.cli import running
from penstock.cli.console import note, out
from penstock.models import hub

_MEGA: Final = 1e6


class Pulled(msgspec.Struct, frozen=True):
    """What was fetched."""

    name: str
    path: str
    revision: str
    licence: str
    files: int
    bytes: int


def pull(
    *,
    name: Annotated[str, typer.Argument(help="ORG/NAME, as the hub has it.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Of a repository of GGUF files: the one to fetch.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fetch nothing; list it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fetch a model's weights, configuration and tokenizer; no code, no pickles.

    What was fetched before an interruption is not fetched again.
    """
    settings = running.settings()
    offered = hub.offer(name, revision, file)
    size = f"{offered.nbytes / _MEGA:,.1f} MB"
    note(
        f"{escape(name)} at {escape(offered.revision[:12])}: {len(offered.files)} files, {size}; "
        f"licence: {escape(offered.licence or 'none stated')}; {offered.left_out} files are left out"
    )
    if dry_run:
        for one in offered.files:
            out.print(f"{one.nbytes:>16,}  {one.name}", markup=False, soft_wrap=True)
        return
    path = hub.fetch(offered, settings.models_dir)
    if as_json:
        done = Pulled(
            name, str(path), offered.revision, offered.licence, len(offered.files), offered.nbytes
        )
        out.print_json(msgspec.json.encode(done).decode())
        return
    note(f"{escape(str(path))}: serve it with")
    out.print(f"celery -A workers worker -Q {name}-cpu", markup=False, soft_wrap=True)
