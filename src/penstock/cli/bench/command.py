"""`penstock bench`."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import httpx
import msgspec
import typer
from rich.progress import Progress

from penstock.cli import running
from penstock.cli.bench.load import Load, Sample, Span, run
from penstock.cli.bench.report import Report, summarise, table
from penstock.cli.console import err, out
from penstock.errors import JobFailed, NotAuthenticated, NoWorker, StartupError


def _span(text: str) -> Span:
    low, _, high = text.partition(":")
    try:
        span = Span(int(low), int(high or low))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor LOW:HIGH") from None
    if not 0 < span.low <= span.high:
        raise typer.BadParameter(f"{text!r} does not satisfy 0 < LOW <= HIGH")
    return span


def bench(
    *,
    url: Annotated[
        str | None,
        typer.Option(help="The API.", show_default="penstock up's, or http://127.0.0.1:8000"),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="A key.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A served model.", show_default="the first that is served")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Open loop: requests a second on average (Poisson)."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Closed loop: clients that wait for their answers.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Stop after this many requests.")] = 100,
    duration: Annotated[
        float, typer.Option(min=0.1, help="Stop sending after this many seconds.")
    ] = 60.0,
    prompt_words: Annotated[
        Span, typer.Option(parser=_span, metavar="N|LOW:HIGH", help="Words of a prompt.")
    ] = "32",  # pyright: ignore[reportArgumentType] - Typer runs the parser over it
    answer_tokens: Annotated[
        Span, typer.Option(parser=_span, metavar="N|LOW:HIGH", help="Tokens of an answer.")
    ] = "64",  # pyright: ignore[reportArgumentType] - as above
    seed: Annotated[int, typer.Option(help="The same seed sends the same requests.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write a JSON report; - is stdout."),
    ] = None,
) -> None:
    """Put load on the API and print what its clients see (default: --rate 2)."""
    if rate is not None and concurrency is not None:
        raise typer.BadParameter("choose one of --rate and --concurrency")
    address, key = running.api_url(url), running.api_key(api_key)
    load = Load(
        url=address,
        key=key,
        model=model or _first_model(address, key),
        requests=requests,
        duration_s=duration,
        rate=2.0 if rate is None and concurrency is None else rate,
        concurrency=concurrency,
        prompt_words=prompt_words,
        answer_tokens=answer_tokens,
        seed=seed,
    )
    report = summarise(_drive(load))
    _show(load, report, save)
    if not report.completed:
        raise JobFailed(f"no request was answered: {report.errors}")


def _drive(load: Load) -> list[Sample]:
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        row = progress.add_task(f"{load.model} at {load.url}", total=load.requests)
        try:
            return asyncio.run(run(load, lambda _: progress.advance(row)))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _show(load: Load, report: Report, save: Path | None) -> None:
    written = msgspec.json.format(msgspec.json.encode({"load": load, "report": report}))
    if save is not None and str(save) == "-":
        out.file.write(written.decode() + "\n")
        return
    if save is not None:
        save.write_bytes(written + b"\n")
    how = f"{load.rate:g} requests/s" if load.rate else f"{load.concurrency} clients"
    out.print(table(report, f"{load.model}, {how}"))
    out.print(
        f"{report.completed} of {report.requests} answered in {report.wall_s:.1f} s: "
        f"{report.output_tokens_per_s:,.1f} output tokens/s, "
        f"{report.requests_per_s:.2f} requests/s, {report.prompt_tokens} prompt tokens"
    )
    for what, count in report.errors.items():
        out.print(f"[red]{count} x {what}[/]")


def _first_model(address: str, key: str) -> str:
    try:
        answer = httpx.get(
            f"{address}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=10.0
        )
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            message = f"{address} requires a key: --api-key, or OPENAI_API_KEY"
            raise NotAuthenticated(message) from error
        raise StartupError(f"{address}/v1/models: {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise StartupError(f"no API answers at {address}; start one with penstock up") from error
    names = [
        str(model["id"])
        for model in answer.json()["data"]
        if "generate" in model.get("capabilities", ("generate",))
    ]
    if not names:
        raise NoWorker(f"{address} serves no model that generates text; start a worker")
    return names[0]
