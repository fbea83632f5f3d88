"""`penstock quantize`: writes a model in low bit, and measures the loss of quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from penstock.cli import running
from penstock.cli.console import err, note, out
from penstock.errors import BadSettings
from penstock.models import spec
from penstock.models.catalogue import resolve
from penstock.models.catalogue.models_file import BIGDL_FORMATS

if TYPE_CHECKING:
    from penstock.models.quantise import Report
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

CALIBRATED: Final = ("autoround", "awq", "gptq")
_MEGA: Final = 1e6
_TEXT: Final = """\
The harbour lay quiet that morning. Two boats had come in during the night, and their crews were \
still asleep below deck. An old man walked along the quay with a bucket in one hand and a folded \
newspaper in the other. He stopped at every third post, looked at the water, and went on. When \
the clock of the town hall struck seven, the first shutters opened and somebody began to sweep \
the steps of the bakery.
What is the difference between a river and a canal? A river finds its own way to the sea; a canal \
is dug by people, so its banks are straight and its water hardly moves. Both carry ships, and both \
need somebody who looks after them. In 1825 a canal of 584 kilometres was finished in eight years.
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
"""


def quantize(
    *,
    model: Annotated[str, typer.Argument(help="A model's name, or its folder.")],
    target: Annotated[
        Path | None, typer.Argument(help="The new folder; by default next to the models.")
    ] = None,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help=f"{', '.join(sorted(BIGDL_FORMATS))}; {', '.join(CALIBRATED)} (calibrated); "
            f"or {spec.FP8_FORMAT}, which is only measured.",
        ),
    ] = spec.DEFAULT_LOW_BIT,
    text: Annotated[
        Path | None, typer.Option(help="The text to measure quality on; in the model's language.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="gptq, awq, autoround: a text like those to come; by default the model writes some."
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option(help="Measure the quality; needs memory for the model in fp32.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a model in low bit, and measure the loss of quality.

    As bigdl-llm's save_low_bit does; or in 4 bit as GPTQ, AWQ and AutoRound are published, rounded by
    what the model computes with on some text (GPTQ's rounding for the first two, the package
    auto-round's for the third): slower to make, and nearer to the model.
    """
    formats = (*sorted(BIGDL_FORMATS), *CALIBRATED, spec.FP8_FORMAT)
    if format_name not in formats:
        raise BadSettings(f"--format: {format_name!r} is not one of {', '.join(formats)}")
    on_load = format_name == spec.FP8_FORMAT
    if on_load and (target or not report):
        raise BadSettings(
            "--format fp8 is measured, not written: workers convert to it when they load a model; "
            "give neither a new folder nor --no-report"
        )
    settings = running.settings()
    source = _source(model, settings)
    folder = target or settings.models_dir / f"{source.name}-{format_name}"
    sample = _sample(text) if report else ""
    if calibration is not None and format_name not in CALIBRATED:
        raise BadSettings(f"--calibration is for {' and '.join(CALIBRATED)}")
    # It brings torch.
    from penstock.models import quantise  # noqa: PLC0415 - loads torch

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("opening", total=1.0)

        def progress(share: float, what: str) -> None:
            bar.update(task, completed=share, description=escape(what))

        if on_load:
            done = quantise.try_fp8(source, sample, progress)
        elif format_name in CALIBRATED:
            from penstock.models.calibration import folder as calibrated  # noqa: PLC0415 - loads torch

            own = "" if calibration is None else _sample(calibration, "--calibration")
            done = calibrated.calibrate(
                source, folder, format_name, text=sample, calibration=own, progress=progress
            )
        else:
            done = quantise.quantise(source, folder, format_name, sample, progress)
    if as_json:
        out.print_json(msgspec.json.encode(done).decode())
        return
    out.print(_table(done))
    if on_load:
        note("nothing was written; a GPU with FP8 serves it with, in models.toml:")
        entry = f'[models.{_key(source.name)}]\nformat = "{format_name}"'
        out.print(entry, markup=False, soft_wrap=True)
        return
    note(f"{escape(str(folder))}: serve it with")
    written = folder.name if target else f"{source.name}-{format_name}"  # keeps org/name
    out.print(f"celery -A workers worker -Q {written}-cpu", markup=False, soft_wrap=True)


def _key(name: str) -> str:
    """Return a name as a TOML key; a bare key with a dot would begin another table."""
    return name if all(letter.isalnum() or letter in "-_" for letter in name) else f'"{name}"'


def _source(model: str, settings: Settings) -> ModelSpec:
    folder = Path(model)
    if (folder / "config.json").is_file():
        folder = folder.resolve()
        settings = settings.model_copy(update={"models_dir": folder.parent})
        return resolve.resolve(f"{folder.name}-cpu", settings)
    return resolve.resolve(f"{model}-cpu", settings)


def _sample(file: Path | None, option: str = "--text") -> str:
    if file is None:
        return _TEXT
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{option}: {error}") from error
    if not text.strip():
        raise BadSettings(f"{option}: {file} is empty")
    return text


def _table(report: Report) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("format", report.format),
        ("weights", f"{report.parameters / _MEGA:,.1f} M"),
        ("size before", f"{report.bytes_before / _MEGA:,.1f} MB"),
        (
            "size in memory" if report.format == spec.FP8_FORMAT else "size after",
            f"{report.bytes_after / _MEGA:,.1f} MB",
        ),
        ("bits a weight", f"{report.bits_a_weight:.2f}"),
    ):
        table.add_row(name, value)
    if (quality := report.quality) is not None:
        for name, value in (
            ("measured on", f"{quality.tokens} tokens"),
            ("logits' error", f"{quality.logit_error:.2%}"),
            ("same next token", f"{quality.agreement:.1%}"),
            ("perplexity in fp32", f"{quality.perplexity_fp32:,.3f}"),
            ("perplexity now", f"{quality.perplexity:,.3f}"),
        ):
            table.add_row(name, value)
    return table
