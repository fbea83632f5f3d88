"""The `openvino` backend: Llama-family checkpoints, and folders exported to OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.architecture import tables, windows
from penstock.models.backends import llama_family as decoders
from penstock.models.backends.openvino import exported
from penstock.models.backends.openvino.compiled import OpenVinoModel
from penstock.models.backends.openvino.graph import DecoderGraph
from penstock.models.backends.openvino.options import CachePrecision, CompileOptions, Precision
from penstock.models.backends.openvino.runtime_library import last_line
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint
from penstock.models.loading.assembled import Assembled
from penstock.models.vision.loading import feature_layers
from penstock.models.weights import conversion, q4_0
from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.converted import Converted
from penstock.models.weights.matrices import FORMATS, Format

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.backends.llama_family import Decoder
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec
    from penstock.models.weights.converted import Converting
    from penstock.models.weights.source import Weights


def load(
    spec: ModelSpec,
    progress: Progress,
    *,
    cache_precision: CachePrecision | None = None,
    precision: Precision | None = None,
    activation_group: int | None = None,
) -> Assembled:
    """Build and compile a model; its KV cache is allocated by the loader.

    Options that are None are chosen from the format and the machine; see `CompileOptions`.

    :raises ModelNotLoadable: with one line about the reason.
    """
    choices = _Choices(cache_precision, precision, activation_group)
    if exported.is_exported(spec.path):
        return _load_exported(spec, progress, choices)
    config = checkpoint.load_config(spec)
    decoder = decoders.loadable(spec.path, config, "openvino")
    form = format_of(spec, config)
    context_length = checkpoint.context_length(spec, SimpleNamespace(config=config))
    rotary = tables.rotary(decoder.rotation, context_length)
    weights = _weights(spec, decoder, form, progress)
    image_layers = feature_layers(spec)
    sliding = windows.of_windows(dict(enumerate(decoder.sliding_windows)), context_length)
    builder = DecoderGraph(decoder, weights, form, apart=sliding.apart, image_layers=image_layers)
    graph = builder.build(lambda share: progress(0.7 + 0.1 * share, f"weights as {form}"))
    progress(0.8, "compiling")
    model = _compiled(
        spec,
        graph,
        choices.options(spec, form),
        vocab_size=decoder.vocab_size,
        context_length=context_length,
        rotary=rotary,
        keep=(weights, builder.arrays),
        sliding=sliding,
        laid_out=weights.drop_pages if isinstance(weights, Converted) else None,
        image_sizes=None if image_layers is None else (decoder.hidden_size, image_layers),
    )
    return Assembled(
        model=model,
        backend="openvino",
        format=form,
        architecture=(config.architectures or [config.model_type])[0],
        parameters=weights.parameters,
        weights_bytes=builder.weights_bytes,
        running="openvino",
        kept=weights.kept,
    )


def _weights(spec: ModelSpec, decoder: Decoder, form: Format, progress: Progress) -> Weights:
    """The model's weights: as they are, or as the folder of converted ones holds them."""

    def convert(converting: Converting, report: Callable[[float], None]) -> None:
        DecoderGraph(decoder, converting, form).build(report)

    if form in ("fp32", "bf16"):  # the graph holds the mapped files' own
        return Checkpoint(spec.path)
    return conversion.of_model(spec, form, convert, progress) or Checkpoint(spec.path)


@dataclass(frozen=True, slots=True)
class _Choices:
    """A caller's choices; None if the rules decide."""

    cache_precision: CachePrecision | None
    precision: Precision | None
    activation_group: int | None

    def options(self, spec: ModelSpec, form: Format | None) -> CompileOptions:
        """`form` None is an exported graph, whose author chose how it computes."""
        precision = self.precision or precision_of(form)
        group = self.activation_group
        return CompileOptions(
            device=device_of(spec),
            precision=precision,
            cache_precision=(
                self.cache_precision or spec.kv_cache_type or cache_precision_of(form, precision)
            ),
            activation_group=activation_group_of(form) if group is None else group,
            threads=torch.get_num_threads(),  # the loader has set it
            pinned=spec.owns_cores,
        )


def _load_exported(spec: ModelSpec, progress: Progress, choices: _Choices) -> Assembled:
    if spec.format is not None:
        raise ModelNotLoadable(
            f"{spec.path}: format {spec.format!r}: an exported model has its format already"
        )
    config = read_config(spec.path)
    if "vocab_size" not in config:
        raise ModelNotLoadable(f"{spec.path}: config.json names no vocab_size")
    progress(0.05, "reading the exported model")
    found = exported.read(spec.path)
    progress(0.5, "compiling")
    known = SimpleNamespace(**config)
    known.get_text_config = lambda: known
    model = _compiled(
        spec,
        found.graph,
        choices.options(spec, None),
        vocab_size=int(config["vocab_size"]),
        context_length=checkpoint.context_length(spec, SimpleNamespace(config=known)),
        rotary=None,
        keep=None,
    )
    return Assembled(
        model=model,
        backend="openvino",
        format="exported",
        architecture=(config.get("architectures") or ["unknown"])[0],
        parameters=found.parameters,
        weights_bytes=found.weights_bytes,
        running="openvino",
    )


def _compiled(spec: ModelSpec, graph: Any, options: CompileOptions, **rest: Any) -> OpenVinoModel:
    try:
        return OpenVinoModel(graph, options, **rest)
    except RuntimeError as error:
        raise ModelNotLoadable(f"{spec.path}: OpenVINO: {last_line(error)}") from error


def format_of(spec: ModelSpec, config: Any) -> Format:
    """Return the spec's format, or INT8, which is not known to harm any model.

    :raises ModelNotLoadable: the backend does not hold the format.
    """
    if spec.format is not None:
        if spec.format not in FORMATS:
            raise ModelNotLoadable(
                f"{spec.path}: format {spec.format!r}: openvino holds {', '.join(FORMATS)}"
            )
        return spec.format
    if spec.low_bit_folder:
        return "sym_int4"
    return "fp32" if checkpoint.dtype(spec, config) == torch.float32 else "int8"


def precision_of(form: Format | None) -> Precision:
    """Return the precision: compressed weights use INT8 activations and are summed in fp32."""
    return "bf16" if form == "bf16" and devices.has_amx() else "f32"


def cache_precision_of(form: Format | None, precision: Precision) -> CachePrecision:
    """As exact as the products around the cache."""
    if form == "fp32":
        return "f32"
    return "bf16" if precision == "bf16" else "f16"


def activation_group_of(form: Format | None) -> int | None:
    """Return how many activations share a scale in INT8 products; 0 if exactness was requested.

    The larger the group, the faster, up to the weights' own; see ADR 0007.
    """
    if form is None:
        return None
    return {"fp32": 0, "bf16": 0, "sym_int4": q4_0.BLOCK}.get(form, 128)


def device_of(spec: ModelSpec) -> str:
    """OpenVINO's name of the device.

    :raises ModelNotLoadable: it has none for NVIDIA GPUs.
    """
    if spec.device == "cpu":
        return "CPU"
    if spec.device == "cuda":
        raise ModelNotLoadable(f"{spec.path}: OpenVINO does not run on NVIDIA GPUs")
    return f"GPU.{spec.device_index or 0}"
