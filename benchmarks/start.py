"""How long a worker takes to be ready, from `celery -A workers worker` on, for a converted model.

    python -m benchmarks.start                              1.1 and 7 billion weights
    python -m benchmarks.start --shapes 1.1b --rounds 5
    python -m benchmarks.start --imports                    what Python's imports take of it, and no more

Real workers beside a real Redis. The first start of a shape converts its weights, once; what it
reports meanwhile is counted. After it come `--rounds` starts each: with the converted file in memory,
as after a restart of the worker; read from the disk, as after a restart of the machine; and two
workers at once that share the file's pages (`PENSTOCK_LARGE_PAGES=false`), with the memory of both
beside that of one. A checkpoint here is zeros, in a file that takes no room on the disk: a start
from converted weights reads none of it, and reads those whole, whatever they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks import conditions, processes
from benchmarks.cpu_engine import SHAPES as SMALLER
from penstock.cli.fleet.child import Child
from tests.fixtures.models import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Generator

SHAPES: Final[dict[str, dict[str, Any]]] = {
    **SMALLER,
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
AIMS_S: Final = {"1.1b": 3.0, "7b": 10.0}
LOOK_S: Final = 0.01
PATIENCE_S: Final = 600.0
_LOADED: Final = re.compile(r"Loaded .* in ([0-9.]+) s")


def write_zeros(folder: Path, shape: str) -> Path:
    """Write a Llama of zeros in bf16, as a file with a hole in place of the weights."""
    target = folder / f"start-{shape}"
    target.mkdir()
    config = LlamaConfig(vocab_size=32_000, max_position_embeddings=4096, **SHAPES[shape])
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in module.state_dict().items():
        begin, end = end, end + weight.numel() * weight.element_size()
        form = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [begin, end]}
        entries[name] = form
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with (target / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    config.save_pretrained(target)
    write_tokenizer(target)
    return target


class Starts:
    """Workers of one model in one stack."""

    def __init__(self, stack: processes.Stack, queue: str) -> None:
        self._stack = stack
        self._queue = queue
        self._count = 0

    def together(self, count: int, *, large_pages: bool = True) -> dict[str, float]:
        """Start workers at once; return seconds until all are ready, and their memory in MB."""
        environment = self._stack.environment | {"PENSTOCK_LARGE_PAGES": str(large_pages).lower()}
        children = [self._child(environment) for _ in range(count)]
        began_s = time.monotonic()
        for child in children:
            child.start()
        try:
            logs = [_until_ready(child) for child in children]
            ready_s = time.monotonic() - began_s
            found = [match for log in logs if (match := _LOADED.search(log))]
            return {
                "ready_s": ready_s,
                "load_s": max(float(match[1]) for match in found),
                "lines": max(log.count("converting to") for log in logs),
                "memory_mb": sum(_memory_mb(child) for child in children),
            }
        finally:
            for child in children:
                child.send(signal.SIGTERM)
            for child in children:
                if child.process is not None:
                    child.process.wait(60)

    def _child(self, environment: dict[str, str]) -> Child:
        self._count += 1
        name = f"worker{self._count}"
        command = [sys.executable, "-m", "celery", "-A", "workers", "worker", "-Q", self._queue]
        return Child(name, [*command, "-n", f"{name}@%h"], self._stack.folder, environment)


def _until_ready(child: Child) -> str:
    """Return a worker's log once Celery has begun to consume."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        log = child.log_path.read_text(errors="replace")
        if "ready." in log:
            return log
        if not child.running() or time.monotonic() > end_s:
            raise SystemExit("\n".join(["a worker did not become ready", *child.tail(20)]))
        time.sleep(LOOK_S)


def _memory_mb(child: Child) -> float:
    """Return a process's memory; pages that several have count in parts."""
    assert child.process is not None
    for line in Path(f"/proc/{child.process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this kernel does not count a process's share of pages")


def forget(converted: Path) -> None:
    """Let the system drop these files from its memory, and no others."""
    for file in converted.glob("*.weights"):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


@contextmanager
def stack_of(folder: Path, shape: str, form: str) -> Generator[Starts]:
    """Run Redis and the API for workers of a shape."""
    models = folder / "models.toml"
    path = write_zeros(folder, shape)
    models.write_text(
        f'[models."start-{shape}"]\npath = "{path}"\nbackend = "native"\nformat = "{form}"\n'
    )
    settings: dict[str, Any] = {
        "PENSTOCK_MODELS_FILE": str(models),
        "PENSTOCK_CONVERTED_DIR": str(folder / "converted"),
        "PENSTOCK_KV_CACHE_BYTES": str(1 << 30),
    }
    with processes.running(**settings) as stack:
        yield Starts(stack, f"start-{shape}-cpu")


def measure(folder: Path, shape: str, form: str, rounds: int) -> dict[str, Any]:
    """Print a shape's figures as they come, and return them."""
    figures: dict[str, list[dict[str, float]]] = {}
    with stack_of(folder, shape, form) as starts:
        first = starts.together(1)
        print(f"{shape}: first start, converts: {first['ready_s']:.1f} s, {first['lines']} lines")
        for _ in range(rounds):
            figures.setdefault("in memory", []).append(starts.together(1))
            forget(folder / "converted")
            figures.setdefault("from the disk", []).append(starts.together(1))
            figures.setdefault("sharing", []).append(starts.together(1, large_pages=False))
            figures.setdefault("two, sharing", []).append(starts.together(2, large_pages=False))
    medians = {
        what: {name: statistics.median(one[name] for one in seen) for name in seen[0]}
        for what, seen in figures.items()
    }
    for what, row in medians.items():
        print(
            f"{shape}: {what:14} ready after {row['ready_s']:.2f} s, "
            f"of which loading {row['load_s']:.1f} s; {row['memory_mb']:,.0f} MB"
        )
    if shape in AIMS_S:
        took_s = medians["in memory"]["ready_s"]
        print(f"{shape}: {took_s:.2f} s of {AIMS_S[shape]:.0f} s that are aimed at")
    return {"first": first, "medians": medians, "all": figures}


def imports(most: int = 25) -> None:
    """Print which modules a worker's start imports for longest, by their own time."""
    code = "import workers, workers.delivery.tasks, workers.delivery.bootsteps, workers.serving.startup"
    code += ", penstock.models.backends.native.loading, transformers"
    environment = os.environ | {"PYTHONPATH": f"{conditions.ROOT / 'src'}:{conditions.ROOT}"}
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    own = [(int(row[0].split(":")[1]), row[2].strip()) for row in rows if "[us]" not in row[0]]
    print(f"{sum(took for took, _ in own) / 1e6:.2f} s in {len(own)} modules, by package:")
    packages: dict[str, int] = {}
    for took, name in own:
        package = ".".join(name.split(".")[:2])
        packages[package] = packages.get(package, 0) + took
    for package, took in sorted(packages.items(), key=lambda one: -one[1])[:most]:
        print(f"{took / 1e3:9.1f} ms  {package}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1.1b", "7b"])
    parser.add_argument("--format", default="sym_int4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the weights; it needs 5 GB for 7b")
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if options.imports:
        imports()
        return
    seen = conditions.observe()
    conditions.show(seen)
    results: dict[str, Any] = {}
    for shape in options.shapes:
        folder = Path(tempfile.mkdtemp(prefix="penstock-start-", dir=options.folder))
        try:
            results[shape] = measure(folder, shape, options.format, options.rounds)
        finally:
            shutil.rmtree(folder)
    if options.save:
        print(conditions.save("start", seen, {"format": options.format, "shapes": results}))


if __name__ == "__main__":
    main()
