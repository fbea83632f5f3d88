"""From a checkpoint of the Llama family to a model of the kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends import llama_family as decoders
from penstock.models.backends.native import decoder as native_decoder
from penstock.models.backends.native import library, packing, pages
from penstock.models.backends.native.matrix import packed_version
from penstock.models.backends.native.model import BLOCK_SIZE, NativeModel
from penstock.models.devices import cpu_cores
from penstock.models.loading import checkpoint
from penstock.models.loading.assembled import Assembled
from penstock.models.weights import conversion
from penstock.models.weights.converted import Converted
from penstock.models.weights.matrices import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.backends.llama_family import Decoder
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec
    from penstock.models.weights.converted import Converting
    from penstock.models.weights.matrices import Format, Weights


def load(spec: ModelSpec, progress: Progress) -> Assembled:
    """Pack the weights, or map what was packed; the KV cache is allocated by the loader.

    Where the kernel has large pages the weights are a copy in those, unless the spec forbids it:
    workers share no memory then, and one stream is some 1.2 times faster.

    :raises ModelNotLoadable: with one line that says why.
    """
    if spec.device != "cpu":
        raise ModelNotLoadable(f"queue {spec.queue!r}: the native backend computes on CPUs only")
    if library.best_isa() is None:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: the native backend needs a CPU with AVX2; "
            f"use backend 'openvino'"
        )
    config = checkpoint.load_config(spec)
    decoder = decoders.loadable(spec.path, config, "native")
    form = format_of(spec)
    context_length = checkpoint.context_length(spec, SimpleNamespace(config=config))
    cosines, sines = decoders.rotary_tables(decoder, context_length)
    weights = _weights(spec, decoder, form, progress)
    native = native_decoder.Decoder(
        shape_of(decoder), torch.get_num_threads(), cpus=_cpus(spec, torch.get_num_threads())
    )
    native.set_rotary(cosines, sines)
    table = weights.embeddings("model.embed_tokens.weight")
    native.set_embeddings(table.values)
    held = table.nbytes
    in_large_pages = spec.large_pages and pages.available()
    for plan in packing.plans(decoder, weights):
        progress(0.7 + 0.1 * plan.layer / decoder.layers, f"weights as {form}")
        packed, values = packing.packed(plan, weights, form)
        if in_large_pages:
            values = pages.copied(values)
            if isinstance(weights, Converted):
                weights.drop_pages()
        native.set_matrix(plan.which, plan.layer, packed, values)
        held += values.nbytes
    for which, layer, vector in packing.vectors(decoder, weights):
        native.set_vector(which, layer, vector)
    return Assembled(
        model=NativeModel(native, context_length),
        backend="native",
        format=form,
        architecture=(config.architectures or [config.model_type])[0],
        parameters=weights.parameters,
        weights_bytes=held,
        running="native",
    )


def format_of(spec: ModelSpec) -> Format:
    """The spec's format; else INT8, which no model is known to suffer from.

    :raises ModelNotLoadable: the backend does not hold the format.
    """
    if spec.low_bit_folder and spec.format is None:
        return "sym_int4"
    for form in packing.FORMATS:
        if form == (spec.format or "int8"):
            return form
    raise ModelNotLoadable(
        f"{spec.path}: format {spec.format!r}: native holds {', '.join(packing.FORMATS)}"
    )


def shape_of(decoder: Decoder) -> native_decoder.Shape:
    """A decoder's sizes in the library's words."""
    return native_decoder.Shape(
        layers=decoder.layers,
        hidden=decoder.hidden_size,
        intermediate=decoder.intermediate_size,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_size=decoder.head_size,
        vocab=decoder.vocab_size,
        block_size=BLOCK_SIZE,
        qk_norm=decoder.qk_norm,
        norm_epsilon=decoder.norm_epsilon,
        sliding_windows=decoder.sliding_windows,
    )


def _weights(spec: ModelSpec, decoder: Decoder, form: Format, progress: Progress) -> Weights:
    """The model's weights: as they are, or as the folder of converted ones holds them, packed."""

    def convert(converting: Converting, tell: Callable[[float], None]) -> None:
        converting.embeddings("model.embed_tokens.weight")
        for plan in packing.plans(decoder, converting):
            packing.packed(plan, converting, form)
            tell((plan.layer + 1) / decoder.layers)
        for _ in packing.vectors(decoder, converting):
            pass

    name = f"native{packed_version()}-{form}"
    return conversion.of_model(spec, name, convert, progress) or Checkpoint(spec.path)


def _cpus(spec: ModelSpec, threads: int) -> list[int] | None:
    """A thread a physical core, where no other worker may use them."""
    owned = [core.cpus[0] for core in cpu_cores.physical()]
    return owned if spec.owns_cores and len(owned) == threads else None
