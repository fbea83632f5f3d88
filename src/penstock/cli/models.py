"""`penstock models`: the models that are served, and those that this machine could serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from penstock.cli import census, machine, running
from penstock.cli.console import note, out
from penstock.cli.sheet import Sheet
from penstock.contract.worker import ModelCard
from penstock.errors import ModelNotLoadable, StoreUnavailable
from penstock.models.adapters import folder as adapter_folder
from penstock.models.adapters.folder import Bounds
from penstock.models.catalogue import footprint, quantisation, resolve, ways
from penstock.models.catalogue.model_folder import read_config

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

MOST_FOLDERS = 1000
_MEGA = 1e6
_GIGA = 1e9


class LocalModel(msgspec.Struct, frozen=True):
    """A model that a worker on this machine finds by its queue's name.

    `weights_bytes` is its size in memory, `kv_bytes` that of one answer at full context; `fits`
    lists this machine's devices with memory for both. `running` is how it is expected to run on a
    CPU, as far as that is known before loading, `stored` what a quantised checkpoint was published
    as (see `ModelCard`).
    """

    name: str
    queue: str
    backend: str
    format: str | None
    path: str
    parameters: int = 0
    file_bytes: int = 0
    weights_bytes: int = 0
    context_length: int = 0
    kv_bytes: int = 0
    fits: tuple[str, ...] = ()
    running: str = ""
    stored: str = ""


class LocalAdapter(msgspec.Struct, frozen=True):
    """A LoRA adapter of this machine: of the models file, or in the folder of those to be loaded.

    `model` is the one that the models file names; empty if it names none. `base` is what its author
    noted. `problem` is why it cannot be used, if so.
    """

    name: str
    path: str
    model: str = ""
    base: str = ""
    rank: int = 0
    file_bytes: int = 0
    problem: str = ""


class Listing(msgspec.Struct, frozen=True):
    """All lists."""

    served: tuple[ModelCard, ...]
    local: tuple[LocalModel, ...]
    adapters: tuple[LocalAdapter, ...] = ()


def models(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the models that are served and those that this machine has."""
    settings = running.settings()
    rooms = machine.rooms()
    specs = resolve.discover(settings)
    local = tuple(_local(spec, rooms) for spec in specs)
    listing = Listing(_served(settings), local, _adapters(specs, settings))
    if as_json:
        out.print_json(msgspec.json.encode(listing).decode())
        return
    out.print(_served_table(listing.served) if listing.served else "No model is served now.")
    out.print(
        _local_table(listing.local) if listing.local else f"No model in {settings.models_dir}."
    )
    if listing.adapters:
        out.print(_adapter_table(listing.adapters))


def _served(settings: Settings) -> tuple[ModelCard, ...]:
    try:
        snapshot = census.take(settings)
    except StoreUnavailable as error:
        note(f"[yellow]the served models are unknown: {escape(error.message)}[/]")
        return ()
    cards = {model.queue: model for worker in snapshot.workers for model in worker.models}
    return tuple(cards[queue] for queue in sorted(cards))


def _adapters(specs: list[ModelSpec], settings: Settings) -> tuple[LocalAdapter, ...]:
    """Return the adapters of the models file, and those below the folder of adapters."""
    bounds = Bounds(settings.max_adapter_rank, settings.max_adapter_bytes)
    named = {(name, path): spec.name for spec in specs for name, path in spec.adapters.items()}
    try:
        found = sorted(settings.adapters_dir.iterdir())[:MOST_FOLDERS]
    except OSError:
        found = []
    loadable = {(path.name, path): "" for path in found if adapter_folder.is_adapter(path)}
    return tuple(
        _local_adapter(name, path, model, bounds)
        for (name, path), model in (named | loadable).items()
    )


def _local_adapter(name: str, path: Path, model: str, bounds: Bounds) -> LocalAdapter:
    try:
        read = adapter_folder.read(path, bounds)
    except ModelNotLoadable as error:
        return LocalAdapter(name, str(path), model, problem=error.message)
    return LocalAdapter(name, str(path), model, read.base, read.rank, read.nbytes)


def _local(model: ModelSpec, rooms: tuple[machine.Room, ...]) -> LocalModel:
    size = footprint.measure(model)
    # bigdl-llm's layers, and OpenVINO's in their place, run on the CPU.
    devices = [room for room in rooms if model.backend == "transformers" or room.device == "cpu"]
    return LocalModel(
        model.name,
        model.queue,
        model.backend,
        model.format,
        str(model.path),
        parameters=size.parameters,
        file_bytes=size.file_bytes,
        weights_bytes=size.weights_bytes,
        context_length=size.context_length,
        kv_bytes=size.kv_bytes,
        fits=tuple(room.device for room in devices if room.memory_bytes >= size.needed_bytes),
        running=_expected_running(model),
        stored=_stored(model),
    )


def _stored(model: ModelSpec) -> str:
    """Return what a quantised checkpoint was published as; empty if it is none, or is not read."""
    try:
        published = quantisation.of_folder(model.path)
    except quantisation.UnknownQuantisation:
        return ""
    return "" if published is None else published.label


def _cost(card: ModelCard) -> str:
    """Return what holding a published checkpoint in another format cost; empty if nothing."""
    if not card.stored or not card.weight_error:
        return ""
    return f", {card.stored} off by {card.weight_error:.2%}"


def _expected_running(model: ModelSpec) -> str:
    if model.backend in {"native", "openvino"}:
        return model.backend
    if model.task != "generate":
        return ""
    return ways.expected(read_config(model.path), low_bit=model.backend == "bigdl")


def _served_table(cards: tuple[ModelCard, ...]) -> Sheet:
    texts = ("model", "queue", "architecture", "format", "runs")
    numbers = ("parameters", "weights", "context", "slots")
    sheet = Sheet("Served", (*texts, *numbers), frozenset(numbers), key="queue")
    for card in cards:
        sheet.add_row(
            escape(", ".join((card.name, *card.aliases))),
            escape(card.queue),
            escape(card.architecture),
            escape(f"{card.format} ({card.backend}){_cost(card)}"),
            escape(card.running),
            f"{card.parameters / _MEGA:,.1f} M",
            f"{card.weights_bytes / _MEGA:,.0f} MB",
            str(card.context_length),
            str(card.slots),
        )
    return sheet


def _local_table(models: tuple[LocalModel, ...]) -> Sheet:
    sheet = Sheet(
        "On this machine",
        ("queue", "format", "runs", "folder", "on disk", "weights", "KV a slot", "fits"),
        frozenset({"on disk", "weights", "KV a slot"}),
        caption="Serve one with: celery -A workers worker -Q QUEUE. docs/models.md explains how each runs.",
    )
    for model in models:
        form = f"{model.format or model.stored or 'as stored'} ({model.backend})"
        sizes = (model.file_bytes, model.weights_bytes, model.kv_bytes)
        fits = ", ".join(model.fits) or "[red]nowhere here[/]"
        texts = map(escape, (model.queue, form, model.running or "-", model.path))
        sheet.add_row(*texts, *map(_size, sizes), fits)
    return sheet


def _adapter_table(adapters: tuple[LocalAdapter, ...]) -> Sheet:
    columns = ("adapter", "model", "made for", "folder", "rank", "on disk")
    sheet = Sheet(
        "LoRA adapters on this machine",
        columns,
        frozenset({"rank", "on disk"}),
        caption="One without a model is loaded at run time: POST /v1/load_lora_adapter.",
    )
    for one in adapters:
        made_for = f"[red]{escape(one.problem)}[/]" if one.problem else escape(one.base)
        size = "" if one.problem else _size(one.file_bytes)
        sheet.add_row(
            escape(one.name), escape(one.model), made_for, escape(one.path), str(one.rank), size
        )
    return sheet


def _size(count: int) -> str:
    return f"{count / _MEGA:,.0f} MB" if count < _GIGA else f"{count / _GIGA:,.1f} GB"
