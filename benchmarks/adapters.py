r"""What LoRA adapters cost the native kernels: a step of many streams, each with one of some adapters.

    python -m benchmarks.adapters --model 1.1b --streams 16 --adapters 8 --rank 16

Printed: the median time of a decode step of the base before any adapter was loaded, of the base with
adapters loaded, and of the streams with adapters, in turns; and the ratios of their rates.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import conditions, engines, native_profile
from benchmarks.cpu_engine import SHAPES
from penstock.contract.events import Finished, Tokens
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import Adapter, SequenceRequest
from penstock.models.adapters.adapter import LowRank, Pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.events import AttemptEvent
    from penstock.models.loader import LoadedModel


def some_adapter(config: dict[str, Any], rank: int, seed: int) -> LowRank:
    """Return an adapter of every linear layer, with random matrices in bf16."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    sizes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip

    def drawn(*size: int) -> torch.Tensor:
        return (torch.randn(size, generator=generator) * 0.02).bfloat16()

    pairs = {
        f"model.layers.{layer}.{name}": Pair(drawn(rank, inputs), drawn(outputs, rank), 1.0)
        for layer in range(config["num_hidden_layers"])
        for name, (outputs, inputs) in sizes.items()
    }
    return LowRank(Path(f"adapter-{seed}"), f"{seed:032x}", rank, pairs)


def step_s(
    loaded: LoadedModel, adapters: Sequence[Adapter | None], prompt: int, tokens: int
) -> float:
    """Return the median seconds of a step in which each stream got a token."""
    told: list[float] = []
    ended = 0

    def sink(events: list[AttemptEvent]) -> None:
        nonlocal ended
        if sum(isinstance(one.event, Tokens) for one in events) == len(adapters):
            told.append(time.perf_counter())
        ended += sum(isinstance(one.event, Finished) for one in events)

    options = replace(
        loaded.options, slots=len(adapters), speculation_tokens=0, prefix_caching=False,
        target_step_ms=None, prefill_chunk_tokens=len(adapters) * prompt,
    )  # fmt: skip
    engine = Engine(loaded.model, loaded.tokenizer, options, sink)
    rng = random.Random(1)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=tokens, ignore_eos=True)
    for job, adapter in enumerate(adapters):
        prompt_ids = [rng.randrange(3, 500) for _ in range(prompt)]
        engine.submit(SequenceRequest(str(job), prompt_ids, sampling, adapter=adapter))
    engines.run(engine, lambda: ended == len(adapters))
    return statistics.median(after - before for before, after in pairwise(told[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="1.1b")
    parser.add_argument("--format", default="sym_int4")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    chosen = parser.parse_args()
    conditions.show(conditions.observe())
    loaded = native_profile.load(
        chosen.cache, chosen.model, chosen.format, threads=chosen.threads, slots=chosen.streams
    )
    plain = [None] * chosen.streams

    def median_s(adapters: Sequence[Adapter | None]) -> float:
        return step_s(loaded, adapters, chosen.prompt_tokens, chosen.tokens)

    median_s(plain)
    before = [median_s(plain) for _ in range(chosen.rounds)]
    model: Any = loaded.model
    config = SHAPES[chosen.model]
    taken = [
        Adapter(number.to_bytes(16, "little"), model.take_adapter(some_adapter(config, chosen.rank, number)))
        for number in range(chosen.adapters)
    ]  # fmt: skip
    mixed = [taken[stream % len(taken)] for stream in range(chosen.streams)]
    turns = [(median_s(plain), median_s(mixed)) for _ in range(chosen.rounds)]
    unused, used = (statistics.median(one) for one in zip(*turns, strict=True))
    base = statistics.median(before)
    print(f"base, before adapters were loaded   {base * 1e3:8.2f} ms a step")
    print(f"base, {chosen.adapters} adapters loaded, none used   {unused * 1e3:8.2f} ms a step")
    print(
        f"{chosen.streams} streams of {chosen.adapters} adapters             {used * 1e3:8.2f} ms a step"
    )
    print(f"rate of the base with adapters loaded: {base / unused:.3f} of that without")
    print(
        f"rate with adapters (rank {chosen.rank}, all linear layers): {unused / used:.3f} of the base's"
    )


if __name__ == "__main__":
    main()
