"""llama.cpp as a contender of `cpu_engine.py`: its own `llama-batched-bench`."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

_LEAST_ROOM = 8192
_SPARE = 256


def measure(chosen: argparse.Namespace, prompt: int) -> dict[str, float]:
    """Return tokens a second by batch, after prompts of so many tokens, and prefill of one prompt."""
    decoding = rows(chosen, prompt, 16, chosen.batches)
    prefill = rows(chosen, chosen.prefill_tokens, 1, [1])
    found = {f"b{row['pl']}": float(row["speed_tg"]) for row in decoding}
    return found | {"prefill": float(prefill[0]["speed_pp"])}


def rows(
    chosen: argparse.Namespace, prompt: int, steps: int, batches: list[int], *options: str
) -> list[dict[str, Any]]:
    """Return the program's own lines, one for each number of streams."""
    threads = str(chosen.threads)
    room = str(max(_LEAST_ROOM, prompt + steps + _SPARE))
    command = [chosen.llama_batched_bench, "-m", chosen.gguf, "-c", room, *options]
    command += ["-t", threads, "-tb", threads, "-npp", str(prompt), "-ntg", str(steps)]
    command += ["-npl", ",".join(map(str, batches)), "--output-format", "jsonl"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
