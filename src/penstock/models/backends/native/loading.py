"""Loads a checkpoint with a description into a model of the native kernels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.architecture import tables, windows
from penstock.models.architecture.description import Experts, dense_part
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.reading import describe
from penstock.models.backends.native import (
    adapters,
    latent,
    library,
    packing,
    pages,
    reach,
    traits,
    vectors,
)
from penstock.models.backends.native.decoder import Decoder
from penstock.models.backends.native.layout import Shape
from penstock.models.backends.native.matrix import packed_version
from penstock.models.backends.native.mixer import native_mixer
from penstock.models.backends.native.mixtures import expert_packing
from penstock.models.backends.native.model import BLOCK_SIZE, NativeModel
from penstock.models.catalogue import quantisation
from penstock.models.catalogue.model_folder import read_config
from penstock.models.devices import cpu_cores
from penstock.models.loading import chatglm, checkpoint
from penstock.models.loading.assembled import Assembled
from penstock.models.weights import conversion
from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.converted import Converted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.architecture.description import Architecture, Layer
    from penstock.models.backends.native.matrix import Packing
    from penstock.models.backends.native.mixtures.expert_packing import ExpertPlan
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec
    from penstock.models.weights.converted import Converting
    from penstock.models.weights.matrices import Format
    from penstock.models.weights.source import Weights

    _Placed = tuple[
        list[packing.Plan | ExpertPlan], Packing, NDArray[np.uint8], NDArray[np.int32] | None
    ]

_COPYING: Final = 4
"""Threads that copy weights at a model's load."""


def load(spec: ModelSpec, progress: Progress) -> Assembled:
    """Pack the weights, or map packed ones; the loader allocates the KV cache.

    If the system has large pages, the weights are copied into them, unless the spec forbids it:
    workers share no memory then, and one stream is some 1.2 times faster.

    :raises ModelNotLoadable: with one line about the reason.
    """
    if spec.device != "cpu":
        raise ModelNotLoadable(f"queue {spec.queue!r}: the native backend computes on CPUs only")
    if library.best_isa() is None:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: the native backend needs a CPU with AVX2; "
            f"use backend 'openvino'"
        )
    config = checkpoint.load_config(spec)
    model = described(spec, config)
    form = format_of(spec, model)
    context_length = checkpoint.context_length(spec, SimpleNamespace(config=config))
    weights = _weights(spec, model, form, progress)
    native = Decoder(
        shape_of(model, small_cache=spec.kv_cache_type == "u8"),
        torch.get_num_threads(),
        cpus=_cpus(spec, torch.get_num_threads()),
    )
    window = windows.sliding(model, context_length)
    set_traits(native, model, context_length, slides=window.apart)
    table = weights.embeddings(f"{model.embeddings}.weight")
    native.set_embeddings(table.values)
    held = table.nbytes + set_unpacked(native, model, weights, form)
    plans = tuple(packing.plans(model, weights))
    held += set_matrices(native, plans, weights, form=form, spec=spec, progress=progress)
    own = adapters.own_pairs(model, weights, form)
    held += sum(pair.down.nbytes + pair.up.nbytes for pair in own.values())
    return Assembled(
        model=NativeModel(
            native,
            context_length,
            window.size,
            [plan for plan in plans if isinstance(plan, packing.Plan)],
            model.head.name,
            own=own,
        ),
        backend="native",
        format=weights.kept.form if form == "stored" else form,
        architecture=next(iter(config.architectures or []), model.family),
        parameters=weights.parameters,
        weights_bytes=held,
        running="native",
        kept=weights.kept,
    )


def set_matrices(
    native: Decoder,
    plans: Sequence[packing.Plan | ExpertPlan],
    weights: Weights,
    *,
    form: Format,
    spec: ModelSpec,
    progress: Progress,
) -> int:
    """Set all packed matrices; return how many bytes they take.

    Those of a converted file are copied into large pages, if the system has them and the spec wants
    them there, by several threads: one alone does not use the memory's whole bandwidth.
    """
    copies = spec.large_pages and pages.available()
    sharing: dict[str, list[packing.Plan | ExpertPlan]] = {}  # layers with the same matrix
    for plan in plans:
        sharing.setdefault(plan.key, []).append(plan)

    def placed(same: list[packing.Plan | ExpertPlan]) -> _Placed:
        packed, values, order = packing.packed(same[0], weights, form)
        if copies:
            values = pages.copied(values)
            if isinstance(weights, Converted):
                weights.drop_pages()
        return same, packed, values, order

    held = 0
    with ThreadPoolExecutor(_COPYING) as pool:
        at_once = copies and isinstance(weights, Converted)
        all_same = sharing.values()
        all_placed = pool.map(placed, all_same) if at_once else map(placed, all_same)
        for index, (same, packed, values, order) in enumerate(all_placed):
            progress(0.7 + 0.1 * index / len(sharing), f"weights as {form}")
            for plan in same:
                native.set_matrix(plan.which, plan.layer, packed, values)
                if order is not None:
                    native.set_order(plan.which, plan.layer, order)
            held += values.nbytes
    return held


def set_unpacked(native: Decoder, model: Architecture, weights: Weights, form: Format) -> int:
    """Set routers, latent matrices, vectors and layers' own inputs; return the bytes that they take."""
    held = 0
    if model.inputs is not None:
        own = weights.embeddings(f"{model.inputs.embeddings}.weight")
        native.set_input_embeddings(own.values, model.inputs.size)
        held += own.nbytes
    for layer, router in expert_packing.routers(model, weights):
        native.set_router(layer, router)
        held += router.nbytes
    for layer, keys, values in latent.matrices(model, weights, form):
        native.set_latent_matrices(layer, keys, values)
        held += keys.nbytes + values.nbytes
    for which, layer, vector in vectors.vectors(model, weights):
        native.set_vector(which, layer, vector)
        held += vector.nbytes
    return held


def format_of(spec: ModelSpec, model: Architecture) -> Format:
    """The spec's format; else as published, or INT8, which no model is known to suffer from.

    INT8 too if codes cannot be held as published.

    :raises ModelNotLoadable: the backend does not hold the format.
    """
    if spec.low_bit_folder and spec.format is None:
        return "sym_int4"
    published = quantisation.is_stated(read_config(spec.path))
    for form in packing.FORMATS:
        if form == (spec.format or ("stored" if published else "int8")):
            return "int8" if form == "stored" and not reach.holds_codes(model) else form
    raise ModelNotLoadable(
        f"{spec.path}: format {spec.format!r}: native holds {', '.join(packing.FORMATS)}"
    )


def described(spec: ModelSpec, config: Any) -> Architecture:
    """Return the description of a model's configuration.

    :raises ModelNotLoadable: it has no description, or one that these kernels do not support.
    """
    raw = read_config(spec.path)
    try:
        model = describe(raw if chatglm.is_original(raw) else config.to_dict())
        reason = reach.beyond(model)
    except NotDescribed as unknown:
        reason, model = str(unknown), None
    if model is None or reason is not None:
        raise ModelNotLoadable(
            f"{spec.path}: not for the native backend: {reason}; use backend 'transformers'"
        )
    return model


def shape_of(model: Architecture, *, small_cache: bool = False) -> Shape:
    """A model's sizes in the library's words."""
    first = model.attending[0]
    return Shape(
        layers=len(model.layers),
        hidden=model.hidden_size,
        intermediate=max(1, *(_inner(layer) for layer in model.layers)),
        heads=first.attention.heads,
        kv_heads=first.attention.kv_heads,
        head_size=first.attention.head_size,
        vocab=model.vocab_size,
        block_size=BLOCK_SIZE,
        qk_norm=False,
        norm_epsilon=model.norm.epsilon,
        sliding_windows=tuple(layer.attention.window for layer in model.layers),
        small_cache=small_cache,
    )


def _inner(layer: Layer) -> int:
    part = dense_part(layer.mlp)
    return layer.mlp.size if part is None else part.size


def set_traits(
    native: Decoder, model: Architecture, context_length: int, *, slides: frozenset[int]
) -> None:
    """Set the traits of the model and its layers, and the tables by position."""
    native.set_traits(traits.of_model(model))
    turned = (layer.attention.rotation for layer in model.layers)
    turnings = list(dict.fromkeys(one for one in turned if one is not None))
    for table, turning in enumerate(turnings):
        native.set_rotary(*tables.rotary(turning, context_length), table)
    growth = next((one.attention.growth for one in model.layers if one.attention.growth), None)
    if growth is not None:
        native.set_growth(tables.growths(growth, context_length))
    for index, layer in enumerate(model.layers):
        own = traits.of_layer(layer, turnings, slides=index in slides)
        native.set_layer(index, own)
        if layer.attention.latent is not None:
            native.set_latent(index, latent.native_latent(layer.attention.latent))
        if isinstance(layer.mlp, Experts):
            native.set_experts(index, expert_packing.native_experts(layer.mlp))
        if layer.mixer is not None:
            native.set_mixer(index, native_mixer(layer.mixer))


def _weights(spec: ModelSpec, model: Architecture, form: Format, progress: Progress) -> Weights:
    """Return the model's weights: the checkpoint's, or converted and packed ones."""

    def convert(converting: Converting, report: Callable[[float], None]) -> None:
        converting.embeddings(f"{model.embeddings}.weight")
        if model.inputs is not None:
            converting.embeddings(f"{model.inputs.embeddings}.weight")
        for _ in expert_packing.routers(model, converting):
            pass
        plans = {plan.key: plan for plan in packing.plans(model, converting)}
        for index, plan in enumerate(plans.values()):
            packing.packed(plan, converting, form)
            report((index + 1) / len(plans))
        adapters.own_pairs(model, converting, form)
        for _ in latent.matrices(model, converting, form):
            pass
        for _ in vectors.vectors(model, converting):
            pass

    name = f"native{packed_version()}-{form}"
    return conversion.of_model(spec, name, convert, progress) or Checkpoint(spec.path)


def _cpus(spec: ModelSpec, threads: int) -> list[int] | None:
    """Return one CPU for each physical core, if no other worker may use them."""
    owned = [core.cpus[0] for core in cpu_cores.physical()]
    return owned if spec.owns_cores and len(owned) == threads else None
