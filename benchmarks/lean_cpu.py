r"""Transformers' own module over our cache beside the lean decoder (fused QKV and gate/up), on a CPU.

    python -m benchmarks.lean_cpu --model 15m --dtype float32

Printed are milliseconds of a decode step after 128 tokens of context, in turns, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks import conditions
from benchmarks.cpu_engine import SHAPES, write_model
from penstock.engine.model import Batch, SequenceSlice
from penstock.models.attention import PagedAttention
from penstock.models.devices.cpu import Cpu
from penstock.models.lean import loading as lean
from penstock.models.transformers import PagedModel

PROMPT_TOKENS = 128
CONTEXT = 1024


def contenders(folder: Path, dtype: torch.dtype, sequences: int) -> dict[str, Any]:
    """Both, each with weights of its own and a cache for so many sequences."""
    attention = PagedAttention()
    attention.register()
    modules = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)
        for _ in range(2)
    ]
    modules[0].set_attn_implementation(attention.name)
    plain = PagedModel(modules[0], attention, torch.device("cpu"), CONTEXT)
    models = {"plain": plain, "lean": lean.build(modules[1], Cpu(), CONTEXT)}
    for model in models.values():
        model.allocate(sequences * blocks_of(plain) + 1)
    return models


def blocks_of(model: Any) -> int:
    """Blocks of a sequence, with room for its steps."""
    return -(-(PROMPT_TOKENS + 64) // model.kv_layout.block_size)


def batch(model: Any, sequences: int, start: int, count: int) -> Batch:
    """The next tokens of all sequences; logits of the last ones."""
    blocks = blocks_of(model)
    return Batch(
        tuple(
            SequenceSlice(
                key,
                [5 + (7 * key + at) % 400 for at in range(count)],
                start,
                list(range(key * blocks, (key + 1) * blocks)),
                count - 1,
            )
            for key in range(sequences)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="15m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    seen = conditions.observe()
    conditions.show(seen)
    folder = write_model(chosen.cache, chosen.model)
    models = contenders(folder, getattr(torch, chosen.dtype), max(chosen.streams))
    rows: list[dict[str, Any]] = []
    for streams in chosen.streams:
        for model in models.values():
            model.forward(batch(model, streams, 0, PROMPT_TOKENS))
        times: dict[str, list[float]] = {name: [] for name in models}
        for step in range(chosen.rounds):
            for name, model in models.items():
                work = batch(model, streams, PROMPT_TOKENS + step, 1)
                began = time.perf_counter()
                model.forward(work)
                times[name].append(time.perf_counter() - began)
        took = {name: statistics.median(values) for name, values in times.items()}
        row = {
            "streams": streams,
            "plain_ms": round(took["plain"] * 1e3, 2),
            "lean_ms": round(took["lean"] * 1e3, 2),
            "plain_to_lean": round(took["plain"] / took["lean"], 2),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    asked = {"model": chosen.model, "dtype": chosen.dtype, "rows": rows}
    print(conditions.save(f"lean-cpu-{chosen.model}", seen, asked))


if __name__ == "__main__":
    main()
