"""The `openvino` backend: Llama-family checkpoints, and folders exported to OpenVINO."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable
from penstock.models import checkpoint, devices
from penstock.models.assembled import Assembled
from penstock.models.openvino import decoder as decoders
from penstock.models.openvino.compiled import OpenVinoModel
from penstock.models.openvino.graph import DecoderGraph
from penstock.models.openvino.options import CachePrecision, CompileOptions, Precision
from penstock.models.openvino.weights import FORMATS, Checkpoint, Format

if TYPE_CHECKING:
    from penstock.models.assembled import Progress
    from penstock.models.spec import ModelSpec


def load(
    spec: ModelSpec,
    progress: Progress,
    *,
    cache_precision: CachePrecision | None = None,
    precision: Precision | None = None,
    activation_group: int | None = None,
) -> Assembled:
    """Build and compile a model; its KV cache is allocated by the loader.

    What is None is chosen by rule, from the format and the machine; see `CompileOptions`.

    :raises ModelNotLoadable: with one line that says why.
    """
    config = checkpoint.load_config(spec)
    decoder = decoders.read(spec.path, config)
    form = format_of(spec, config)
    context_length = checkpoint.context_length(spec, SimpleNamespace(config=config))
    rotary = decoders.rotary_tables(spec.path, config, decoder, context_length)
    weights = Checkpoint(spec.path)
    builder = DecoderGraph(decoder, weights, form)
    graph = builder.build(lambda share: progress(0.05 + 0.7 * share, f"weights as {form}"))
    progress(0.8, "compiling")
    chosen = precision or precision_of(form)
    options = CompileOptions(
        device=device_of(spec),
        precision=chosen,
        cache_precision=cache_precision or cache_precision_of(form, chosen),
        activation_group=(
            activation_group_of(form) if activation_group is None else activation_group
        ),
        threads=torch.get_num_threads(),  # the loader has set it
    )
    try:
        model = OpenVinoModel(
            graph,
            options,
            vocab_size=decoder.vocab_size,
            context_length=context_length,
            rotary=rotary,
            keep=(weights, builder.arrays),
        )
    except RuntimeError as error:
        raise ModelNotLoadable(f"{spec.path}: OpenVINO: {_last_line(error)}") from error
    return Assembled(
        model=model,
        backend="openvino",
        format=form,
        architecture=(config.architectures or [config.model_type])[0],
        parameters=weights.parameters,
        weights_bytes=builder.weights_bytes,
    )


def format_of(spec: ModelSpec, config: Any) -> Format:
    """The spec's format; else INT8, which no model is known to suffer from.

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


def precision_of(form: Format) -> Precision:
    """What to compute in. Compressed weights meet INT8 activations and sum up in fp32."""
    return "bf16" if form == "bf16" and devices.has_amx() else "f32"


def cache_precision_of(form: Format, precision: Precision) -> CachePrecision:
    """As exact as the products around the cache."""
    if form == "fp32":
        return "f32"
    return "bf16" if precision == "bf16" else "f16"


def activation_group_of(form: Format) -> int:
    """Activations that share a scale in INT8 products; 0 where exactness is asked for."""
    if form in ("fp32", "bf16"):
        return 0
    return 128 if form == "int4" else 64 if form == "sym_int4" else 32


def device_of(spec: ModelSpec) -> str:
    """OpenVINO's name of the device.

    :raises ModelNotLoadable: it has none for NVIDIA GPUs.
    """
    if spec.device == "cpu":
        return "CPU"
    if spec.device == "cuda":
        raise ModelNotLoadable(f"{spec.path}: OpenVINO does not run on NVIDIA GPUs")
    return f"GPU.{spec.device_index or 0}"


def _last_line(error: BaseException) -> str:
    """OpenVINO's messages begin with source locations and end with the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
