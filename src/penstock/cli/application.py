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
from penstock.cli.pull import pull
from penstock.cli.quantize import quantize
from penstock.cli.serve import PASSED_ON, api, worker
from penstock.cli.status import status


def _examples(*lines: str) -> str:
    """Return the end of a command's `--help`; Typer takes a blank line for a line's end."""
    return "\n\n".join(("Examples:", *lines))


app = typer.Typer(
    name="penstock",
    help="A self-hosted LLM serving fleet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_examples("penstock up", "penstock chat", "penstock status", "penstock up --help"),
)
app.command(
    epilog=_examples(
        "penstock up",
        "penstock up -Q bigdl-7b-cpu -Q vicuna-7b-cpu --port 8080",
        "penstock up --once --chat 'What is a canal?'",
    )
)(up)
app.command(
    context_settings=PASSED_ON,
    epilog=_examples("penstock api --port 8080", "penstock api --host 0.0.0.0 --workers 4"),
)(api)
app.command(
    context_settings=PASSED_ON,
    epilog=_examples(
        "penstock worker -Q bigdl-7b-cpu",
        "penstock worker -Q bigdl-7b-cpu,vicuna-7b-cpu -c 16 --loglevel WARNING",
    ),
)(worker)
app.command(
    epilog=_examples(
        "penstock chat",
        "penstock chat 'What is a canal?' --model bigdl-7b --temperature 0",
        "OPENAI_API_KEY=sk-... penstock chat --url http://gpu-host:8000",
    )
)(chat)
app.command(epilog=_examples("penstock models", "penstock models --json"))(models)
app.command(
    epilog=_examples(
        "penstock pull Qwen/Qwen3-0.6B",
        "penstock pull Qwen/Qwen3-8B-GGUF --file Qwen3-8B-Q4_K_M.gguf",
        "penstock pull Qwen/Qwen3-8B --dry-run",
    )
)(pull)
app.command(
    epilog=_examples(
        "penstock quantize vicuna-7b",
        "penstock quantize vicuna-7b /srv/models/vicuna-int8 --format sym_int8",
        "penstock quantize vicuna-7b --format gptq --calibration chats.txt",
        "penstock quantize vicuna-7b --format fp8",
    )
)(quantize)
app.command(
    epilog=_examples(
        "penstock status",
        "penstock status --json",
        "penstock status --check bigdl-7b-cpu",
    )
)(status)
app.add_typer(keys, name="keys")
app.command(
    epilog=_examples("penstock usage --since 7d > usage.csv", "penstock usage --key anna --total")
)(usage)
app.command(
    epilog=_examples(
        "penstock bench --rate 5",
        "penstock bench --concurrency 64 --prompt-words 200:400 --json run.json",
    )
)(bench)
app.command(epilog=_examples("penstock doctor", "penstock doctor --json"))(doctor)


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
