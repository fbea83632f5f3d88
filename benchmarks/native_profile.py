r"""Where the native kernels' time goes, a step of the engine at a time, and what bounds them.

    python -m benchmarks.native_profile --model 1.1b --streams 1 4 8 16 32
    python -m benchmarks.native_profile --model qwen3-30b-a3b --layers 4 --streams 1 16

Printed by number of streams: milliseconds a step, the share of each phase (`outside`: scheduling,
sampling, events: Python and torch), products of a weight and an activation a second while products
are computed, their share of what the cores can issue, and weights read a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks import conditions, engines
from benchmarks.cpu_engine import BY_LAYER, SHAPES, write_by_layer, write_model
from penstock.contract.events import Finished, Tokens
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.backends.native import library
from penstock.models.backends.native.layout import Phase
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.engine.events import AttemptEvent
    from penstock.models.backends.native.model import NativeModel
    from penstock.models.loader import LoadedModel

PRODUCTS = (Phase.QKV, Phase.OUTPUT, Phase.GATE_UP, Phase.DOWN, Phase.HEAD)


def steps(
    loaded: LoadedModel, streams: int, prompt: int, tokens: int
) -> tuple[list[float], dict[Phase, list[float]]]:
    """Seconds of every step in which each stream got a token, and those of its phases.

    With one token, of the step that computed the prompts.
    """
    model = cast("NativeModel", loaded.model)
    told: list[tuple[float, int, dict[Phase, float]]] = []
    ended = 0

    def sink(events: list[AttemptEvent]) -> None:
        nonlocal ended
        count = sum(isinstance(one.event, Tokens) for one in events)
        told.append((time.perf_counter(), count, model.phases_s()))
        ended += sum(isinstance(one.event, Finished) for one in events)

    options = replace(
        loaded.options, slots=streams, speculation_tokens=0, prefix_caching=False,
        target_step_ms=None, prefill_chunk_tokens=streams * prompt,
    )  # fmt: skip
    engine = Engine(loaded.model, loaded.tokenizer, options, sink)
    rng = random.Random(streams)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=tokens, ignore_eos=True)
    for job in range(streams):
        prompt_ids = [rng.randrange(3, 500) for _ in range(prompt)]
        engine.submit(SequenceRequest(str(job), prompt_ids, sampling))
    told.append((time.perf_counter(), streams, model.phases_s()))
    engines.run(engine, lambda: ended == streams)
    first = 1 if tokens == 1 else 2  # the first step computes the prompts
    pairs = list(zip(told[first - 1 :], told[first:], strict=False))
    wall_s = [after[0] - before[0] for before, after in pairs]
    phases = {
        phase: [after[2][phase] - before[2][phase] for before, after in pairs] for phase in Phase
    }
    return wall_s, phases


def shares(seen: tuple[list[float], dict[Phase, list[float]]], rows: int) -> dict[str, Any]:
    """Milliseconds of a step of `rows` tokens, and the share of each phase."""
    step_s = statistics.median(seen[0])
    phase_s = {phase: statistics.median(values) for phase, values in seen[1].items()}
    return {
        "tokens": rows,
        "step_ms": round(step_s * 1e3, 2),
        "least_ms": round(min(seen[0]) * 1e3, 2),
        **{phase.name.lower(): round(took / step_s, 3) for phase, took in phase_s.items()},
        "outside": round(1 - sum(phase_s.values()) / step_s, 3),
    }


def profile(
    shape: dict[str, int], seen: tuple[list[float], dict[Phase, list[float]]], rows: int, last: int
) -> dict[str, Any]:
    """A line of the table; `rows` tokens a step, of which `last` get logits."""
    step_s = statistics.median(seen[0])
    phase_s = {phase: statistics.median(values) for phase, values in seen[1].items()}
    products_s = sum(phase_s[phase] for phase in PRODUCTS)
    # Past the last layer's keys and values only the rows that get logits are computed.
    layer = shape["weights"] // shape["layers"]
    kept = layer - shape["qkv"]
    count = rows * shape["weights"] - (rows - last) * kept + last * shape["head"]
    return {
        **shares(seen, rows),
        "products_share": round(products_s / step_s, 3),
        "g_products_s": round(count / products_s / 1e9, 1),
        "gb_s": round(shape["bytes"] / products_s / 1e9, 1),
    }


def shape_of(config: dict[str, Any], bits: float) -> dict[str, int]:
    """Weights of all layers, of QKV in one and of the head, and their bytes."""
    hidden, inner, layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    qkv = hidden * hidden // heads * (heads + 2 * kv_heads)
    weights = layers * (qkv + hidden * hidden + 3 * hidden * inner)
    head = hidden * config["vocab_size"]
    total = int((weights + head) * bits / 8)
    return {"layers": layers, "qkv": qkv, "weights": weights, "head": head, "bytes": total}


def load(
    cache: Path, model: str, form: str, *, threads: int, slots: int, layers: int = 0
) -> LoadedModel:
    """Write a shape's random weights into `cache`, if they are not there, and load them natively."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "native.toml"
    path = write_by_layer(cache, model, layers) if layers else write_model(cache, model)
    file.write_text(f'[models."bench"]\npath = "{path}"\nbackend = "native"\nformat = "{form}"\n')
    settings = Settings(models_file=file, threads=threads, kv_cache_bytes=1 << 30)
    spec = resolve("bench-cpu", settings)
    return loader.load(spec, settings, slots=slots, progress=lambda *_: None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=(*SHAPES, *BY_LAYER), default="1.1b")
    parser.add_argument("--layers", type=int, default=4, help="of a shape that is cut")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prefill-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    chosen = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    layers = chosen.layers if chosen.model in BY_LAYER else 0
    loaded = load(
        chosen.cache, chosen.model, "sym_int4",
        threads=chosen.threads, slots=max(chosen.streams), layers=layers,
    )  # fmt: skip
    shape = None if layers else shape_of(SHAPES[chosen.model] | {"vocab_size": 32_000}, 4.5)
    best = library.best_isa()
    assert best is not None
    peak = library.peak_products_s(best) * chosen.threads
    print(f"{best.name}: {peak / 1e9:.0f} G products/s from registers on {chosen.threads} threads")
    rows: list[dict[str, Any]] = []
    loads = [(count, chosen.prompt_tokens, chosen.tokens, count, count) for count in chosen.streams]
    loads.append((1, chosen.prefill_tokens, 1, chosen.prefill_tokens, 1))
    for streams, prompt, tokens, computed, last in loads:
        seen_steps = steps(loaded, streams, prompt, tokens)
        if shape is None:
            row = shares(seen_steps, computed)
        else:
            row = profile(shape, seen_steps, computed, last)
            row["of_peak"] = round(row["g_products_s"] * 1e9 / peak, 3)
        print(json.dumps(row), flush=True)
        rows.append(row)
    results = {"model": chosen.model, "peak_products_s": peak, "isa": best.name, "rows": rows}
    print(conditions.save(f"native-profile-{chosen.model}", seen, results))


if __name__ == "__main__":
    main()
