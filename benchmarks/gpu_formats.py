"""One GPU: a random model in each format of weights, beside the same model in bf16.

    python -m benchmarks.gpu_formats                      # Llama-2-7B's shape
    python -m benchmarks.gpu_formats --shape qwen3-30b-a3b --layers 24 --formats sym_int4 fp8 mxfp4
    python -m benchmarks.gpu_formats --quick              # a small model, to see that it runs

Codes are random, since only their number counts: `groups-32` and the like are published 4 bit without
zeros, `zeros-128` with them, `order-128` with columns in another order (act-order), `fp8-blocks` FP8
in blocks of 128, `mxfp4` that of gpt-oss (experts alone). One engine, all requests at once.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import conditions
from benchmarks.gpu_engine import (
    PREFILL,
    Ours,
    bandwidth,
    beside,
    in_bf16,
    in_four_bits,
    replace_weights,
    show,
)
from benchmarks.gpu_shapes import SHAPES, bytes_a_token, configuration, make_module
from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import Dense, Fp8Blocks, Int4
from penstock.models.backends.lean.products.weight_formats import FP8
from penstock.models.backends.lean.weights import Weights, matrices, quantized, widen_if_room
from penstock.models.backends.transformers.model import assemble
from penstock.models.devices.cuda import Cuda
from penstock.models.devices.xpu import Xpu
from penstock.models.spec import ModelSpec

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Linear, Matrices

CONTEXT = 4096
FORMATS = (
    *("sym_int4", "groups-32", "groups-128", "zeros-32", "zeros-128", "order-128"),
    *("fp8", "fp8-blocks", "mxfp4"),
)
DENSE = [name for name in FORMATS if name != "mxfp4"]


def codes_of(size: tuple[int, ...], place: torch.device, name: str) -> Int4:
    """Random codes of (rows, columns), or of all experts' matrices."""
    kind, _, number = name.partition("-")
    group = {"sym_int4": 64, "mxfp4": 32}.get(name) or int(number)
    *outer, columns = size
    kind_of = torch.int16 if len(outer) > 1 else torch.int32
    width, most = columns // (2 * kind_of.itemsize), torch.iinfo(kind_of).max
    packed = torch.randint(-most, most, (*outer, width), dtype=kind_of, device=place)
    scales = torch.rand(*outer, columns // group, device=place) * 0.004
    zeros = torch.randint(-3, 4, scales.shape, dtype=torch.int8, device=place)
    order = torch.randperm(columns, device=place).int() if kind == "order" else None
    return Int4(
        packed,
        scales.half(),
        None,
        group=group,
        zeros=zeros if kind in {"zeros", "order"} else None,
        order=order,
        floats=name == "mxfp4",
    )


def in_format(weights: Weights, name: str, kind: torch.dtype) -> Weights:
    """The same sizes in a format; in `mxfp4` all but the experts stay as they are."""
    place = weights.embeddings.device
    if name == "fp8":
        return quantized(weights, place, kind, FP8, lambda *_: None)
    layers = [replace_layer(layer, name) for layer in weights.layers]
    if name in {"mxfp4", "fp8-blocks"}:
        return Weights(weights.embeddings, layers, weights.norm, weights.head)
    head = in_four_bits(Weights(weights.embeddings, [], weights.norm, weights.head)).head
    return Weights(weights.embeddings, layers, weights.norm, head)


def replace_layer(layer: Any, name: str) -> Any:
    """A layer's matrices in a format."""

    def all_experts(dense: Matrices) -> Matrices:
        assert isinstance(dense, torch.Tensor)
        if name == "fp8-blocks":
            return fp8.hold_experts(dense, dense.device, dense.dtype)
        return codes_of(tuple(dense.shape), dense.device, name)

    def one(linear: Linear) -> Linear:
        assert isinstance(linear, Dense)
        if name == "mxfp4":
            return linear
        if name == "fp8-blocks":
            held = all_experts(linear.weight[None])
            assert isinstance(held, Fp8Blocks)
            return held.expert(0)
        return codes_of(tuple(linear.weight.shape), linear.weight.device, name)

    changed: dict[str, Any] = {which: one(linear) for which, linear in matrices(layer)}
    if layer.experts is not None:
        own = layer.experts
        changed["experts"] = replace(
            own, gate_up=all_experts(own.gate_up), down=all_experts(own.down)
        )
    return replace(layer, **changed)


def in_turn(
    model: Any, dense: Weights, wide: dict[str, Any], blocks: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Each format's figures, from the same dense weights."""
    found: dict[str, Any] = {}
    for name in options.formats:
        model.allocate(0)
        with torch.inference_mode():
            weights = in_format(dense, name, model.body.kind)
        replace_weights(model, weights)
        row: dict[str, Any] = {"gb": round(weights.nbytes / 1e9, 2)}
        if options.wide:
            widen_if_room(weights, model.body.device, model.body.kind)
            row["with_wide_copy_gb"] = round(weights.nbytes / 1e9, 2)
        row |= beside(model, blocks, options, wide, options.streams)
        ours = Ours(model, blocks, max(options.streams))
        row["prefill_tokens_per_s"] = ours.prefills(model.vocab_size, options.rounds)
        if options.profile:
            show(ours.profile(1, model.vocab_size))
        found[name] = row
        show({name: row})
    return found


def measure(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    """All of it; the results by name."""
    shape = SHAPES[options.shape]
    config = configuration(shape, layers=options.layers, quick=options.quick)
    config.max_position_embeddings = CONTEXT
    speed = bandwidth(device)
    module = make_module(config, device)
    limit = speed / bytes_a_token(module, shape)
    result: dict[str, Any] = {
        "device": device.describe(),
        "shape": {"name": options.shape, "layers": config.num_hidden_layers},
        "copy_tb_per_s": round(speed / 1e12, 3),
        "limit_tokens_per_s": round(limit, 1),
    }
    queue = f"random-{device.kind}"
    spec = ModelSpec("random", queue, device.kind, 0, Path("random"), "transformers")
    assembled = assemble(
        spec, module, format_name="bf16", parameters=0, tolerance=0.1, progress=lambda *_: None
    )
    del module
    model: Any = assembled.model
    slots = max(options.streams)
    blocks = slots * 512 // 16 + PREFILL // 8
    model.max_sequences = slots
    model.allocate(blocks)
    model.capture()
    wide = in_bf16(Ours(model, blocks, slots), blocks, config.vocab_size, limit, options)
    result["bf16"] = wide | {"gb": round(model.weights.nbytes / 1e9, 2)}
    return result | in_turn(model, model.weights, wide, blocks, options)


def main() -> None:
    """Measure, and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    parser.add_argument("--layers", type=int, help="cut the shape to so many")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=DENSE)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-wide", dest="wide", action="store_false", help="no copies in bf16")
    parser.add_argument("--quick", action="store_true", help="a small model")
    parser.add_argument("--profile", action="store_true", help="what one stream's time goes to")
    options = parser.parse_args()
    options.greedy, options.gpus = True, 1
    device: Any = next((one for one in (Xpu(), Cuda()) if one.missing() is None), None)
    if device is None:
        raise SystemExit(f"torch sees no GPU: {Cuda().missing()}")
    observed = conditions.observe()
    conditions.show(observed)
    result = measure(options, device)
    print(conditions.save(f"gpu-formats-{options.shape}", observed, result))


if __name__ == "__main__":
    main()
