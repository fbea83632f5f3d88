"""Attention of a chunk of one long prompt, one layer: our kernels in turns with torch's.

    python -m benchmarks.gpu_attention
    python -m benchmarks.gpu_attention --heads 32 --kv-heads 8

Ours reads paged keys and values. Torch's FlashAttention-2 and cuDNN's get them in one piece, and see all
keys, as torch has no mask for a chunk after other tokens; their rates count what they compute.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import conditions
from penstock.models.architecture.reading import describe
from penstock.models.backends.lean.graphs.step_rows import FIELDS, Step
from penstock.models.backends.lean.operations import hopper_attention, triton_attention
from penstock.models.backends.lean.operations.ops import AttentionLayer, LayerCache
from penstock.models.backends.lean.shape import Shape, Sizes, Turning
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.devices.cuda import Cuda

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_SIZE = 128
CHUNKS = ((512, 0), (2048, 0), (512, 8192), (2048, 6144), (2048, 30_720), (8192, 24_576))
"""Tokens of a chunk, and those before it."""

TURN_MS = 10.0
"""How long a side's turn is, at least."""


@dataclass(frozen=True)
class Chunk:
    """A chunk's queries, and the layer that has the keys and values of its sequence."""

    qkv: torch.Tensor
    step: Step
    layer: AttentionLayer
    out: torch.Tensor


def make_chunk(tokens: int, before: int, heads: int, kv_heads: int) -> Chunk:
    """Random queries, keys and values in bf16; the sequence's blocks lie anywhere."""
    place, kind = torch.device("cuda"), torch.bfloat16
    blocks = -(-(before + tokens) // BLOCK_SIZE)
    size = (blocks, kv_heads, BLOCK_SIZE, HEAD_SIZE)
    cache = LayerCache(*(torch.randn(size, dtype=kind, device=place) for _ in range(2)))
    model = describe(
        {
            "model_type": "llama", "hidden_size": heads * HEAD_SIZE, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "num_hidden_layers": 1, "intermediate_size": 8,
        }
    )  # fmt: skip
    sizes = Sizes(1, heads * HEAD_SIZE, 8, heads, kv_heads, HEAD_SIZE, 8)
    none = torch.empty(0)
    layer = AttentionLayer(
        Shape(sizes, before + tokens, model), Turning(none, none, HEAD_SIZE), None, 0, cache,
        HEAD_SIZE**-0.5,
    )  # fmt: skip
    step = Step(
        torch.zeros((FIELDS, tokens), dtype=torch.int32, device=place),
        none, torch.randperm(blocks, device=place).to(torch.int32)[None].contiguous(), 0,
        torch.tensor([(0, tokens, before, 0)], dtype=torch.int32, device=place), tokens,
    )  # fmt: skip
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * HEAD_SIZE, dtype=kind, device=place)
    return Chunk(qkv, step, layer, qkv.new_empty(tokens, heads * HEAD_SIZE))


def of_torch(chunk: Chunk, backend: SDPBackend) -> Callable[[], Any]:
    """Torch's attention over as many keys, all of them seen."""
    sizes, cache = chunk.layer.shape.sizes, chunk.layer.cache
    group = sizes.heads // sizes.kv_heads
    keys, values = (
        part.transpose(0, 1).flatten(1, 2).repeat_interleave(group, 0)[None].contiguous()
        for part in (cache.keys, cache.values)
    )
    queries = chunk.qkv[:, : sizes.heads * HEAD_SIZE].view(-1, sizes.heads, HEAD_SIZE)

    def attend() -> None:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(queries.transpose(0, 1)[None], keys, values)

    return attend


def ours(chunk: Chunk) -> dict[str, Callable[[], Any]]:
    """The kernel of any device, and Hopper's where it is."""
    qkv, step, layer, out = chunk.qkv, chunk.step, chunk.layer, chunk.out
    sides: dict[str, Callable[[], Any]] = {
        "ours, any GPU": lambda: triton_attention.prefill_plain(qkv, step, layer, out)
    }
    if hopper_attention.can_attend(qkv, step, layer):
        sides["ours, Hopper"] = lambda: triton_attention.prefill(qkv, step, layer, out)
    return sides


def microseconds(work: Callable[[], Any], times: int) -> float:
    """What one of some launches takes."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end) / times


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Medians in microseconds of the sides that run here."""
    times: dict[str, int] = {}
    for name, work in list(sides.items()):
        try:
            microseconds(work, 1)
            times[name] = max(1, int(1e3 * TURN_MS / microseconds(work, 2)))
        except RuntimeError as error:
            print(f"{name} is left out: {str(error).splitlines()[0][:120]}")
    taken: dict[str, list[float]] = {name: [] for name in times}
    for _ in range(rounds):
        for name, count in times.items():
            taken[name].append(microseconds(sides[name], count))
    return {name: statistics.median(each) for name, each in taken.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds and TFLOP/s of each side, by chunk."""
    found: dict[str, Any] = {}
    for tokens, before in CHUNKS:
        chunk = make_chunk(tokens, before, options.heads, options.kv_heads)
        sides = ours(chunk) | {
            "torch, FlashAttention-2": of_torch(chunk, SDPBackend.FLASH_ATTENTION),
            "torch, cuDNN": of_torch(chunk, SDPBackend.CUDNN_ATTENTION),
        }
        row: dict[str, Any] = {}
        for name, us in in_turns(sides, options.rounds).items():
            keys = before + (tokens if name.startswith("torch") else (tokens + 1) / 2)
            operations = 4 * options.heads * HEAD_SIZE * tokens * keys
            row[name] = {"us": round(us, 1), "tflop_per_s": round(operations / us / 1e6)}
            print(f"{tokens} after {before}: {name}: {row[name]}", flush=True)
        found[f"{tokens} after {before}"] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if Cuda().missing() is not None:
        raise SystemExit(f"torch sees no GPU: {Cuda().missing()}")
    observed = conditions.observe()
    conditions.show(observed)
    result = {"device": Cuda().describe(), "heads": [options.heads, options.kv_heads]}
    print(conditions.save("gpu-attention", observed, result | measure(options)))


if __name__ == "__main__":
    main()
