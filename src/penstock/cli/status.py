"""`penstock status`: a live view of the fleet."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from penstock.cli import census, running
from penstock.cli.console import out
from penstock.cli.sheet import Sheet
from penstock.clock import clock
from penstock.contract.worker import hit_ratios
from penstock.errors import NoWorker, StoreUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from penstock.cli.census import Census
    from penstock.contract.worker import ModelStatus, WorkerCard, WorkerLoad
    from penstock.settings import Settings


def status(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print it once and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it once, as JSON.")] = False,
    check: Annotated[
        str | None,
        typer.Option(metavar="QUEUE", help="Exit 1 unless a worker of this host serves it."),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
) -> None:
    """Show workers, queues and tokens/s, as Redis has them."""
    settings = running.settings()
    if check is not None:
        _check(census.take(settings.for_queues([check])), check)
        return
    snapshot = census.take(settings)
    if as_json:
        out.print_json(msgspec.json.encode(snapshot).decode())
    elif once or not out.is_terminal:
        out.print(render(snapshot))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(settings, snapshot, interval)


def _check(snapshot: Census, queue: str) -> None:
    host = socket.gethostname()
    served = {
        model.queue for worker in snapshot.workers if worker.host == host for model in worker.models
    }
    if queue not in served:
        raise NoWorker(f"no live worker on {host} serves {queue}")


def _watch(settings: Settings, snapshot: Census, interval: float) -> None:
    with Live(render(snapshot), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                shown: RenderableType = render(census.take(settings))
            except StoreUnavailable as error:
                shown = Text(error.message, style="red")
            live.update(shown, refresh=True)


def render(snapshot: Census) -> RenderableType:
    """Lay out queues and workers as two tables, below a line for each Redis that is away."""
    away = [Text(f"The Redis of {name} does not answer.", style="red") for name in snapshot.away]
    if not snapshot.workers:
        command = "celery -A workers worker -Q <model>-<device>"
        return Group(*away, Text(f"No worker is alive. Start one: {command}"))
    return Group(*away, _queue_table(snapshot), _worker_table(snapshot))


def _queue_table(snapshot: Census) -> Sheet:
    numbers = (
        "workers",
        "slots",
        "running",
        "waiting",
        "oldest",
        "decode",
        "prefill",
        "KV",
        "hits",
    )
    adapted = any(queue.adapters for queue in snapshot.queues)
    columns = ("queue", *(("adapters",) if adapted else ()), *numbers)
    table = Sheet("Queues", columns, frozenset(numbers), box=SIMPLE_HEAD)
    for queue in snapshot.queues:
        table.add_row(
            escape(queue.queue),
            *((escape(", ".join(queue.adapters)),) if adapted else ()),
            str(queue.workers),
            str(queue.slots),
            str(queue.load.running),
            str(queue.depth.waiting_jobs),
            f"{queue.depth.oldest_age_s:.1f} s",
            f"{queue.load.decode_tokens_per_s:.0f}/s",
            f"{queue.load.prefill_tokens_per_s:.0f}/s",
            f"{queue.load.kv_use:.0%}",
            _hits(queue.load),
        )
    return table


def _hits(load: WorkerLoad) -> str:
    """Return the share of prompt tokens that were found, and which of them were not in memory."""
    ratios = hit_ratios(load)
    if ratios is None:
        return ""
    further = (("disk", ratios.disk), ("hosts", ratios.hosts))
    tiers = ", ".join(f"{name} {share:.0%}" for name, share in further if share)
    return f"{ratios.found:.0%} ({tiers})" if tiers else f"{ratios.found:.0%}"


def _worker_table(snapshot: Census) -> Sheet:
    adapted = any(any(worker.adapters.values()) for worker in snapshot.workers)
    extra = ("adapters in memory",) if adapted else ()
    table = Sheet(
        "Workers",
        ("host", "process", "queue", *extra, "format", "runs", "step", "tokens", "up", "state"),
        frozenset({"process", "step", "tokens", "up"}),
        key="queue",
        box=SIMPLE_HEAD,
    )
    now_ms = clock.now_ms()
    for worker in snapshot.workers:
        for model in worker.models:
            load = worker.loads.get(model.queue)
            table.add_row(
                escape(worker.host),
                str(worker.pid),
                escape(model.queue),
                *((_adapters(worker, model.queue),) if adapted else ()),
                escape(model.format),
                escape(model.running),
                f"{load.step_ms:.1f} ms" if load else "",
                str(load.generated_tokens_total) if load else "",
                _duration((now_ms - worker.started_ms) / 1000),
                _state(worker, model.queue),
            )
    return table


_SHOWN: Final[dict[ModelStatus, str]] = {
    "loaded": "ready",
    "loading": "loading",
    "unloading": "unloading",
    "on_demand": "on demand",
    "failed": "not loadable",
}


def _state(worker: WorkerCard, queue: str) -> str:
    return "draining" if worker.draining else _SHOWN[worker.status_of(queue)]


def _adapters(worker: WorkerCard, queue: str) -> str:
    return escape(", ".join(worker.adapters.get(queue, ())))


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{max(0, int(seconds))} s"
