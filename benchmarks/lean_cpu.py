r"""Steps of models whose products torch computes, on a CPU: by whom attention is computed.

    python -m benchmarks.lean_cpu --model 15m --dtype float32 --contexts 128 2048

Contenders in turns: Transformers' own module over our cache, and the lean decoder, each with torch's
attention over gathered keys and values, and with the native library's over the blocks where they
lie. Printed are milliseconds of a decode step by context and streams, and of a prompt's chunk by
what came before it; ratios are torch's time to the native library's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks import conditions
from benchmarks.cpu_engine import SHAPES, write_model
from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.lean import loading as lean
from penstock.models.backends.lean.operations.native_attention import NativeAttention
from penstock.models.backends.lean.operations.torch_ops import TorchOps
from penstock.models.backends.native.paged import NativePaged
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.backends.transformers.attention import PagedAttention
from penstock.models.backends.transformers.model import PagedModel
from penstock.models.devices.cpu import Cpu

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BLOCKS = 16
ROOM_TOKENS = 64


@dataclass(frozen=True)
class Contender:
    """One way to compute a step; `prepare` gives a model that several share its attention."""

    model: Any
    prepare: Callable[[], object]


@dataclass(frozen=True)
class Contenders:
    """By name."""

    all: dict[str, Contender]

    def allocate(self, sequences: int, tokens: int) -> None:
        """A cache for so many sequences, all of it written, as memory never written is not read."""
        blocks = sequences * blocks_of(tokens)
        for model in {id(one.model): one.model for one in self.all.values()}.values():
            model.max_sequences = sequences
            model.allocate(blocks)
            for first in range(0, blocks, CHUNK_BLOCKS):
                table = list(range(first, min(first + CHUNK_BLOCKS, blocks)))
                ids = [5 + at % 400 for at in range(len(table) * BLOCK_SIZE)]
                model.forward(Batch((SequenceSlice(0, ids, 0, table, len(ids) - 1),)))
                model.release(0)

    def time(self, batches: Callable[[int], Batch], rounds: int) -> dict[str, float]:
        """Median milliseconds of each one's forward, in turns; the first round does not count."""
        times: dict[str, list[float]] = {name: [] for name in self.all}
        for number in range(rounds + 1):
            for name, contender in self.all.items():
                contender.prepare()
                work = batches(number)
                began = time.perf_counter()
                contender.model.forward(work)
                times[name].append(time.perf_counter() - began)
        return {name: round(statistics.median(taken[1:]) * 1e3, 2) for name, taken in times.items()}


def contenders(folder: Path, dtype: torch.dtype, context: int, *, module: bool) -> Contenders:
    """The lean decoder's, and the module's if they are wanted."""
    found: dict[str, Contender] = {}
    if module:
        attention = PagedAttention()
        attention.register()
        plain = _module(folder, dtype)
        plain.set_attn_implementation(attention.name)
        paged = PagedModel(plain, attention, torch.device("cpu"), context)
        for name, ours in (("torch", None), ("native", NativePaged())):
            prepare = partial(setattr, attention, "native", ours)
            found[f"module_{name}"] = Contender(paged, prepare)
    decoder = lean.build(_module(folder, dtype), Cpu(), context)
    for name, ops in (("torch", TorchOps()), ("native", TorchOps(NativeAttention()))):
        found[f"lean_{name}"] = Contender(decoder, partial(setattr, decoder.body, "ops", ops))
    return Contenders(found)


def _module(folder: Path, dtype: torch.dtype) -> Any:
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return module.eval().requires_grad_(requires_grad=False)


def blocks_of(tokens: int) -> int:
    """Blocks of a sequence of so many tokens, with room for its steps."""
    return -(-(tokens + ROOM_TOKENS) // BLOCK_SIZE)


def batch(sequences: int, tokens: int, start: int, count: int) -> Batch:
    """The next tokens of all sequences; logits of the last ones."""
    blocks = blocks_of(tokens)
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
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 2048])
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prompt in a step")
    parser.add_argument("--before", type=int, nargs="*", default=[], help="tokens before a chunk")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--module", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    seen = conditions.observe()
    conditions.show(seen)
    longest = max(*chosen.contexts, *(before + chosen.chunk for before in chosen.before), 0)
    chosen.cache.mkdir(parents=True, exist_ok=True)
    found = contenders(
        write_model(chosen.cache, chosen.model),
        getattr(torch, chosen.dtype),
        longest + ROOM_TOKENS,
        module=chosen.module,
    )
    rows: list[dict[str, Any]] = []

    def show(what: dict[str, Any], took: dict[str, float]) -> None:
        ratios = {
            f"{who}_torch_to_native": round(took[f"{who}_torch"] / took[f"{who}_native"], 2)
            for who in ("module", "lean")
            if f"{who}_torch" in took
        }
        rows.append(what | {f"{name}_ms": value for name, value in took.items()} | ratios)
        print(json.dumps(rows[-1]), flush=True)

    for context in chosen.contexts:
        for streams in chosen.streams:
            found.allocate(streams, context)
            took = found.time(
                lambda step, n=streams, c=context: batch(n, c, c + step, 1), chosen.rounds
            )
            show({"context": context, "streams": streams}, took)
    for before in chosen.before:
        tokens = before + chosen.chunk
        found.allocate(1, tokens)
        took = found.time(
            lambda _, b=before, t=tokens: batch(1, t, b, chosen.chunk), max(3, chosen.rounds // 4)
        )
        show({"before": before, "chunk": chosen.chunk}, took)
    asked = {"model": chosen.model, "dtype": chosen.dtype, "rows": rows}
    print(conditions.save(f"lean-cpu-{chosen.model}-{chosen.dtype}", seen, asked))


if __name__ == "__main__":
    main()
