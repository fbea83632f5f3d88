"""`penstock bench`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus
from operator import itemgetter
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import httpx
import typer
from rich.progress import Progress

from penstock.cli import running
from penstock.cli.bench.load import Sample, run
from penstock.cli.bench.outcome import Outcome, show
from penstock.cli.bench.page import Side
from penstock.cli.bench.report import BOUNDED, Bounds, together
from penstock.cli.bench.workload import Load, ShapeName, Span
from penstock.cli.console import err
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
        typer.Option(min=0.001, help="Open loop: requests a second (agents: tasks), Poisson."),
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
    shape: Annotated[
        ShapeName,
        typer.Option(
            help="words: --prompt-words and --answer-tokens; sharegpt: lengths of real chats; "
            "agents: tasks of six turns that repeat a growing conversation; images: one a prompt."
        ),
    ] = "words",
    dataset: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Conversations in ShareGPT's form (JSON), as prompts."),
    ] = None,
    burstiness: Annotated[
        float,
        typer.Option(min=0.01, help="Of --rate: 1 is Poisson, less bursts, more evens out."),
    ] = 1.0,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY:MS",
            help="Bound of a good answer: ttft, tpot, itl (the longest) or e2el; repeatable.",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="URL", help="A second server, measured in turns.")
    ] = None,
    against_key: Annotated[str, typer.Option(help="Its key.")] = "none",
    against_model: Annotated[
        str | None, typer.Option(help="Its model.", show_default="the first that it serves")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="Runs of each server, with other seeds.")
    ] = 1,
    save: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write a JSON report, with vllm bench serve's names too; - is stdout.",
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an HTML page with plots.")
    ] = None,
) -> None:
    """Put load on the API and print what its clients see (default: --rate 2)."""
    if rate is not None and concurrency is not None:
        raise typer.BadParameter("choose one of --rate and --concurrency")
    bounds = _bounds(goodput or [])
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
        shape=shape,
        burstiness=burstiness,
        dataset=dataset,
    )
    loads = [load]
    if against is not None:
        other = running.api_url(against)
        served = against_model or _first_model(other, against_key)
        loads.append(replace(load, url=other, key=against_key, model=served))
    sides = _sides(loads, rounds, bounds)
    outcome = Outcome(loads, sides, save, page)
    show(outcome)
    for side in sides:
        if not side.report.completed:
            raise JobFailed(f"{side.name}: no request was answered: {side.report.errors}")


def _bounds(texts: list[str]) -> Bounds | None:
    """Read bounds such as `ttft:500`."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if name not in BOUNDED or not limit > 0:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(BOUNDED)}, with a time in ms")
        limits[f"{name}_ms"] = limit
    return Bounds(**limits) if limits else None


def _sides(loads: list[Load], rounds: int, bounds: Bounds | None) -> list[Side]:
    """Run each load so many times, the servers in turns, the first of a round by turns too."""
    samples: list[list[list[Sample]]] = [[] for _ in loads]
    for turn in range(rounds):
        numbers = list(range(len(loads)))
        for number in numbers[:: -1 if turn % 2 else 1]:
            samples[number].append(_drive(replace(loads[number], seed=loads[number].seed + turn)))
    return [
        Side(load.url, [one for run in runs for one in run], together(runs, bounds))
        for load, runs in zip(loads, samples, strict=True)
    ]


def _drive(load: Load) -> list[Sample]:
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        row = progress.add_task(f"{load.model} at {load.url}", total=load.requests)
        try:
            samples = asyncio.run(run(load, lambda _: progress.advance(row)))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    if not samples:
        raise JobFailed(f"{load.url}: no request was due within {load.duration_s:g} s")
    return samples


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
    try:
        names = [
            (bool(model.get("parent")), str(model["id"]))  # a model rather than its adapter
            for model in answer.json()["data"]
            if "generate" in model.get("capabilities", ("generate",))
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StartupError(f"{address}/v1/models: not a list of models") from error
    if not names:
        raise NoWorker(f"{address} serves no model that generates text; start a worker")
    return min(names, key=itemgetter(0))[1]
