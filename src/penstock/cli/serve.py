"""`penstock api` and `penstock worker`: uvicorn and Celery with our own packages."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from penstock.cli import edges
from penstock.cli.console import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.cli.edges import Edge

PASSED_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that hands on what it does not know."""
_API_GRACE_S: Final = 30


def api_arguments(host: str, port: int, grace_s: int) -> list[str]:
    """Return uvicorn's arguments for our API."""
    return [
        *("penstock.cli.edges:api_app", "--factory", "--host", host, "--port", str(port)),
        *("--timeout-graceful-shutdown", str(grace_s)),
    ]


def api(
    context: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port.")] = 8000,
    grace: Annotated[
        int,
        typer.Option(
            "--timeout-graceful-shutdown", min=0, help="Seconds for streams to end at a stop."
        ),
    ] = _API_GRACE_S,
) -> None:
    """Serve the API, as `uvicorn api:app` does; further options are uvicorn's."""
    _mention_foreign("api", "uvicorn api:app")
    run_uvicorn([*api_arguments(host, port, grace), *context.args])


def worker(
    context: typer.Context,
    *,
    queues: Annotated[
        list[str],
        typer.Option("--queues", "-Q", help="<model>-<device>; several by commas, or repeat it."),
    ],
) -> None:
    """Serve models, as `celery -A workers worker` does; further options are Celery's."""
    _mention_foreign("workers", "celery -A workers worker")
    run_celery(["worker", "-Q", ",".join(queues), *context.args])


def run_uvicorn(arguments: Sequence[str]) -> None:
    """Run uvicorn's command line in this process until it ends."""
    edges.folder_of("api")
    uvicorn: Any = importlib.import_module("uvicorn.main")
    uvicorn.main(args=list(arguments), prog_name="penstock api")


def run_celery(arguments: Sequence[str]) -> None:
    """Run Celery's command line with our application in this process until it ends."""
    edges.load("workers")
    celery: Any = importlib.import_module("celery.bin.celery")
    celery.celery(
        args=["-A", "workers", *arguments], prog_name="penstock", auto_envvar_prefix="CELERY"
    )


def _mention_foreign(name: Edge, command: str) -> None:
    if (path := edges.foreign(name)) is not None:
        note(
            f"[yellow]{escape(str(path))} is not Penstock's and is left alone; "
            f"`{command}` in this folder would start it[/]"
        )
