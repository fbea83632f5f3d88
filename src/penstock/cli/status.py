"""`penstock status`: what the fleet does, live."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock.cli import census, running
from penstock.cli.console import out
from penstock.clock import clock
from penstock.errors import NoWorker, StoreUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from penstock.cli.census import Census
    from penstock.settings import Settings


def status(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it once, as JSON.")] = False,
    check: Annotated[
        str | None,
        typer.Option(metavar="QUEUE", help="Exit 1 unless a worker of this host serves it."),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
) -> None:
    """Show workers, queues and tokens/s, as Redis tells them."""
    settings = running.settings()
    seen = census.take(settings)
    if check is not None:
        _check(seen, check)
    elif as_json:
        out.print_json(msgspec.json.encode(seen).decode())
    elif once or not out.is_terminal:
        out.print(render(seen))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(settings, seen, interval)


def _check(seen: Census, queue: str) -> None:
    host = socket.gethostname()
    served = {model.queue for one in seen.workers if one.host == host for model in one.models}
    if queue not in served:
        raise NoWorker(f"no live worker on {host} serves {queue}")


def _watch(settings: Settings, seen: Census, interval: float) -> None:
    with Live(render(seen), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                shown: RenderableType = render(census.take(settings))
            except StoreUnavailable as error:
                shown = Text(error.message, style="red")
            live.update(shown, refresh=True)


def render(seen: Census) -> RenderableType:
    """Lay out queues and workers as two tables."""
    if not seen.workers:
        return Text("No worker lives. Start one: celery -A workers worker -Q <model>-<device>")
    return Group(_queue_table(seen), _worker_table(seen))


def _queue_table(seen: Census) -> Table:
    table = Table(title="Queues", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("queue", no_wrap=True)
    for name in ("workers", "slots", "running", "waiting", "oldest", "decode", "prefill", "KV"):
        table.add_column(name, justify="right")
    for one in seen.queues:
        table.add_row(
            one.queue,
            str(one.workers),
            str(one.slots),
            str(one.load.running),
            str(one.depth.waiting_jobs),
            f"{one.depth.oldest_age_s:.1f} s",
            f"{one.load.decode_tokens_per_s:.0f}/s",
            f"{one.load.prefill_tokens_per_s:.0f}/s",
            f"{one.load.kv_use:.0%}",
        )
    return table


def _worker_table(seen: Census) -> Table:
    table = Table(title="Workers", title_justify="left", box=SIMPLE_HEAD)
    for name in ("host", "process", "queue", "format", "runs", "step", "tokens", "up", "state"):
        left = name in {"host", "queue", "format", "runs", "state"}
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "queue")
    now_ms = clock.now_ms()
    for worker in seen.workers:
        for model in worker.models:
            load = worker.loads.get(model.queue)
            table.add_row(
                worker.host,
                str(worker.pid),
                model.queue,
                model.format,
                model.running,
                f"{load.step_ms:.1f} ms" if load else "",
                str(load.generated_tokens_total) if load else "",
                _duration((now_ms - worker.started_ms) / 1000),
                "draining" if worker.draining else "ready",
            )
    return table


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{max(0, int(seconds))} s"
