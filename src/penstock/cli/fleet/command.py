"""`penstock up`."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 - typer reads this module's annotations
from typing import Annotated

import typer
from rich.markup import escape

from penstock import demo_model
from penstock import settings as settings_module
from penstock.cli import running
from penstock.cli.console import note
from penstock.cli.fleet import first_answer, guidance
from penstock.cli.fleet.fleet import DEFAULT_QUEUE, Fleet, Plan
from penstock.cli.fleet.interrupts import Interrupts
from penstock.errors import StartupError

AGENTS_QUEUE = f"bigdl-{demo_model.LONG_NAME}-cpu"
DEFAULT_PROMPT = "What is Penstock?"
_LOOK_S = 0.5


def up(
    *,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            "-Q",
            help="A queue to serve, <model>-<device>; one worker each, or one for all that loads "
            "them on demand if PENSTOCK_RESIDENT_MODELS is set.",
            show_default=DEFAULT_QUEUE,
        ),
    ] = None,
    agents: Annotated[
        bool,
        typer.Option(
            "--agents",
            help=f"Serve a small model whose context holds coding agents' prompts: {AGENTS_QUEUE}.",
        ),
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The API's port.")] = 8000,
    host: Annotated[str, typer.Option(help="The address that the API listens on.")] = "127.0.0.1",
    redis_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Redis's port.",
            show_default="6379, or the next that is free",
        ),
    ] = None,
    fastchat_port: Annotated[
        int,
        typer.Option(min=0, max=65_535, help="FastChat's controller port; 0 turns it off."),
    ] = 21001,
    once: Annotated[bool, typer.Option("--once", help="Stop after the first answer.")] = False,
    chat: Annotated[
        str, typer.Option(metavar="PROMPT", help="The first question; '' asks nothing.")
    ] = DEFAULT_PROMPT,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds that loading the models may take.")
    ] = 900.0,
) -> None:
    """Run Redis, workers and the API on this machine, for development."""
    came_up = False
    with running.hold_folder(), Interrupts() as interrupts:
        plan = Plan.make(
            queues=_queues(queue or [], settings_module.load().models_dir, agents=agents),
            host=host,
            port=port,
            redis_port=redis_port,
            fastchat_port=fastchat_port,
        )
        fleet = Fleet(plan)
        try:
            fleet.start(patience)
            came_up = True
            _answer(fleet, chat, once=once)
            if not once:
                note("[dim]Ctrl-C stops everything.[/]")
                _watch(fleet)
        except KeyboardInterrupt:
            note("\nstopping (Ctrl-C again kills)")
            if not came_up:
                raise typer.Exit(130) from None
        finally:
            interrupts.begin_stop()
            fleet.stop(interrupts.hurry)


def _queues(chosen: list[str], models_dir: Path, *, agents: bool) -> tuple[str, ...]:
    """Return the queues to serve; the agents' model is written if it is to be served.

    :raises StartupError: its folder cannot be written.
    """
    if not agents:
        return tuple(chosen or (DEFAULT_QUEUE,))
    folder = models_dir / demo_model.LONG_NAME
    try:
        demo_model.write_long(folder)
    except OSError as error:
        raise StartupError(f"{folder}: the model for agents cannot be written: {error}") from error
    return (*chosen, AGENTS_QUEUE)


def _answer(fleet: Fleet, prompt: str, *, once: bool) -> None:
    """Ask the first chat model, then print guidance; a failure is fatal only with `--once`."""
    model = fleet.plan.chat_model
    if prompt and model:
        try:
            first_answer.ask(fleet.plan.api_url, fleet.key, model, prompt)
        except StartupError as error:
            if once:
                raise
            note(f"[yellow]no first answer:[/] {escape(error.message)}")
    if not once:
        plan = fleet.plan
        if AGENTS_QUEUE in plan.queues:
            guidance.show_agents(plan.api_url, AGENTS_QUEUE.removesuffix("-cpu"))
        guidance.show(plan.api_url, model, plan.models[0], plan.controller_url, fleet.redis_export)


def _watch(fleet: Fleet) -> None:
    while True:
        fleet.supervisor.keep_running()
        time.sleep(_LOOK_S)
