"""`penstock models`: what is served, and what this machine could serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from penstock.cli import census, running
from penstock.cli.console import note, out
from penstock.contract.worker import ModelCard
from penstock.errors import StoreUnavailable
from penstock.models import spec

if TYPE_CHECKING:
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

_MEGA = 1e6


class LocalModel(msgspec.Struct, frozen=True):
    """A model that a worker on this machine finds by its queue's name."""

    name: str
    queue: str
    backend: str
    format: str | None
    path: str


class Listing(msgspec.Struct, frozen=True):
    """Both lists."""

    served: tuple[ModelCard, ...]
    local: tuple[LocalModel, ...]


def models(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the models that are served and those that this machine has."""
    settings = running.settings()
    listing = Listing(_served(settings), tuple(map(_local, spec.discover(settings))))
    if as_json:
        out.print_json(msgspec.json.encode(listing).decode())
        return
    out.print(_served_table(listing.served) if listing.served else "No model is served now.")
    out.print(
        _local_table(listing.local) if listing.local else f"No model in {settings.models_dir}."
    )


def _served(settings: Settings) -> tuple[ModelCard, ...]:
    try:
        seen = census.take(settings)
    except StoreUnavailable as error:
        note(f"[yellow]what is served is not known: {escape(error.message)}[/]")
        return ()
    cards = {model.queue: model for worker in seen.workers for model in worker.models}
    return tuple(cards[queue] for queue in sorted(cards))


def _local(one: ModelSpec) -> LocalModel:
    return LocalModel(one.name, one.queue, one.backend, one.format, str(one.path))


def _served_table(cards: tuple[ModelCard, ...]) -> Table:
    table = Table(title="Served", title_justify="left")
    for name in ("model", "queue", "architecture", "format"):
        table.add_column(name)
    for name in ("parameters", "weights", "context", "slots"):
        table.add_column(name, justify="right")
    for card in cards:
        table.add_row(
            ", ".join((card.name, *card.aliases)),
            card.queue,
            card.architecture,
            f"{card.format} ({card.backend})",
            f"{card.parameters / _MEGA:,.1f} M",
            f"{card.weights_bytes / _MEGA:,.0f} MB",
            str(card.context_length),
            str(card.slots),
        )
    return table


def _local_table(found: tuple[LocalModel, ...]) -> Table:
    table = Table(title="On this machine", title_justify="left")
    for name in ("model", "serve it with", "format", "folder"):
        table.add_column(name, overflow="fold")
    for one in found:
        form = f"{one.format or 'as stored'} ({one.backend})"
        table.add_row(one.name, f"celery -A workers worker -Q {one.queue}", form, one.path)
    return table
