"""`penstock doctor`: this machine's hardware and libraries, and what is missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from penstock.cli import edges, machine, running
from penstock.cli.console import out
from penstock.cli.finding import Finding, Mark
from penstock.cli.redis_findings import redis_in_use, redis_program
from penstock.cli.xpu_findings import xpu_parts
from penstock.errors import ModelNotLoadable
from penstock.models.backends import suitability
from penstock.models.catalogue import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.settings import Settings

_STYLES: dict[Mark, str] = {"ok": "green", "note": "yellow", "missing": "red"}
_GIB = 1024**3
_SMALL_MEMORY_BYTES = 8 * _GIB


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Examine this machine; exit with 1 if it cannot serve a model."""
    settings = running.settings()
    findings = [
        *_hardware(),
        *_libraries(),
        *_devices(),
        *xpu_parts(),
        redis_program(),
        *redis_in_use(settings),
        *_names_here(),
        *_models(settings),
    ]
    if as_json:
        out.print_json(msgspec.json.encode(findings).decode())
    else:
        out.print(_table(findings))
    if any(finding.mark == "missing" for finding in findings):
        raise typer.Exit(1)


def _hardware() -> Iterator[Finding]:
    cpu = machine.cpu()
    yield Finding("CPU", "ok", f"{cpu.name}, {cpu.cores} cores for this process")
    fast = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if name in cpu.flags]
    if "amx_int8" in cpu.flags:
        fast.append("amx")
    if "avx2" in cpu.flags:
        advice = "" if len(fast) > 1 else "low-bit models run, but slowly"
        yield Finding("instructions", "note" if advice else "ok", " ".join(fast), advice)
    else:
        advice = "bigdl-llm's kernels need AVX2; full-precision models run"
        yield Finding("instructions", "note", "no AVX2", advice)
    total, free = machine.memory_bytes()
    small = total < _SMALL_MEMORY_BYTES
    yield Finding(
        "memory",
        "note" if small else "ok",
        f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free",
        "a 7B model in 4 bit takes about 5 GiB with its cache" if small else "",
    )


def _libraries() -> Iterator[Finding]:
    yield Finding("Python", "ok", machine.python_version())
    for name in ("torch", "transformers"):
        version = machine.version_of(name)
        yield _library(name, version, "missing", "pip install 'penstock[worker]'")
    yield _library(
        "bigdl-llm",
        machine.version_of("bigdl-llm"),
        "note",
        "no 4-bit models by bigdl-llm; pip install 'penstock[worker]' on Linux x86-64",
    )
    yield _library(
        "openvino",
        machine.version_of("openvino"),
        "note",
        "4-bit models are slower without; pip install 'penstock[openvino]'",
    )
    yield _native()
    yield _library("openai", machine.version_of("openai"), "note", "pip install 'penstock[client]'")


def _native() -> Finding:
    """Report whether the native kernels were compiled, and what this CPU offers them."""
    try:
        isa = suitability.native_isa()
    except ModelNotLoadable as error:
        advice = "4-bit models are slower without; install with PENSTOCK_BUILD_NATIVE=zig"
        return Finding("native kernels", "note", error.message, advice)
    if isa is None:
        return Finding("native kernels", "note", "this CPU has no AVX2", "OpenVINO serves instead")
    text = isa.name.lower()
    return Finding(
        "native kernels", "ok", text if suitability.native_wins() else f"{text}, on request"
    )


def _library(name: str, version: str | None, without: Mark, advice: str) -> Finding:
    if version is None:
        return Finding(name, without, "not installed", advice)
    return Finding(name, "ok", version)


def _devices() -> Iterator[Finding]:
    try:
        accelerators = machine.accelerators()
    except ImportError as error:
        if machine.version_of("torch") is None:
            advice = "the API and the command line work without it"
            yield Finding("devices", "missing", "unknown without torch", advice)
        else:
            broken = f"torch does not load: {error}"
            yield Finding("devices", "missing", broken, "make clean-all demo")
        return
    yield Finding("cpu", "ok", "queues named <model>-cpu are served here")
    for device in ("xpu", "cuda"):
        names = [device_.name for device_ in accelerators if device_.kind == device]
        if names:
            yield Finding(device, "ok", f"{', '.join(names)}: queues named <model>-{device}")
            yield _fp8(device)
            if len(names) > 1:
                yield _multi_gpu(device, len(names))
        else:
            yield Finding(device, "note", "none seen", _without(device))


def _fp8(device: str) -> Finding:
    """Report whether the first GPU of a kind computes in FP8."""
    lack: str | None = _gpu(device).lacks_fp8()
    if lack is None:
        return Finding(f"{device}, FP8", "ok", "format = 'fp8' in models.toml is served here")
    return Finding(f"{device}, FP8", "note", lack, "bf16 and sym_int4 are served")


def _multi_gpu(device: str, count: int) -> Finding:
    """Report whether several GPUs can serve one model together, and how they communicate."""
    gpu = _gpu(device)
    library: Any = importlib.import_module("torch.distributed")
    subject, queue = f"{device}, together", f"<model>-{device}.0-{count - 1}"
    if not (library.is_available() and library.is_backend_available(gpu.collectives)):
        why = f"this torch has no {gpu.collectives.upper()}: no model over several GPUs"
        return Finding(subject, "note", why, f"one worker a GPU serves <model>-{device}.0 and on")
    offer = f"a model over all {count}: queue {queue}, or tensor_parallel in models.toml"
    if all(gpu.reaches(away) for away in range(count)):
        return Finding(subject, "ok", f"{offer}; their sums go through each other's memory")
    advice = "these GPUs do not reach each other's memory (NVLink, PCIe peer access): slower"
    return Finding(subject, "ok", f"{offer}; their sums go by {gpu.collectives.upper()}", advice)


def _gpu(device: str) -> Any:
    layer: Any = importlib.import_module("penstock.models.devices")
    return layer.Xpu() if device == "xpu" else layer.Cuda()


def _without(device: str) -> str:
    """Return advice for queues of a device that torch does not see."""
    gpu = _gpu(device)
    advice = f"for <model>-{device} queues: {gpu.advice()}"
    if device == "xpu" and machine.version_of("openvino"):
        advice += "; or backend = 'openvino' in models.toml, which needs only the driver"
    return advice


def _names_here() -> Iterator[Finding]:
    """Packages of the current folder that Celery and uvicorn would start in the place of ours."""
    commands: tuple[tuple[edges.Edge, str, str], ...] = (
        ("api", "uvicorn api:app", "penstock api"),
        ("workers", "celery -A workers worker", "penstock worker"),
    )
    for name, command, ours in commands:
        if (path := edges.foreign(name)) is not None:
            advice = f"`{command}` would start it here; `{ours}` starts Penstock's"
            yield Finding(f"name {name!r}", "note", f"{path} is not Penstock's", advice)


def _models(settings: Settings) -> Iterator[Finding]:
    names = [model.name for model in resolve.discover(settings)]
    if names:
        yield Finding("models", "ok", ", ".join(names))
    else:
        advice = f"put a model's folder into {settings.models_dir}/"
        yield Finding("models", "note", f"none in {settings.models_dir}", advice)


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        advice = f"\n[dim]{escape(finding.advice)}[/]" if finding.advice else ""
        text = escape(finding.found)
        table.add_row(f"[{_STYLES[finding.mark]}]{finding.mark}[/]", finding.subject, text + advice)
    return table
