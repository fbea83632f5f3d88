"""The `bigdl` backend: bigdl-llm's low-bit linear layers inside a Transformers module.

bigdl-llm stores the weights and multiplies with them; loading, attention and stepping are ours. Its
own loaders are not used: they patch forwards for Transformers of 2023, and read pickles.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.backends import low_bit_experts as experts
from penstock.models.backends import low_bit_folders
from penstock.models.backends.lean.products import low_bit
from penstock.models.backends.linear_layers import (
    contiguous_class,
    linear_layers,
    matrix_of,
    read_directly,
)
from penstock.models.backends.transformers.model import assemble
from penstock.models.loading import checkpoint, published
from penstock.models.loading.libraries import transformers
from penstock.models.spec import DEFAULT_LOW_BIT
from penstock.models.weights import matrices
from penstock.models.weights.loss import Loss
from penstock.models.weights.matrices import Kept

if TYPE_CHECKING:
    from collections.abc import Generator

    from penstock.models.loading.assembled import Assembled, Progress
    from penstock.models.spec import ModelSpec

_NEGLIGIBLE = 10
"""Bytes in low bit for each fp32 weight: routers and norms add far less."""

_TOLERANCE = 0.1  # its kernels round activations, and differently for many rows than for few


def load(spec: ModelSpec, progress: Progress) -> Assembled:
    """Load a checkpoint and quantise it, or load a folder that `save_low_bit` wrote.

    :raises ModelNotLoadable: with one line about the reason.
    """
    if spec.device != "cpu":
        return low_bit.load(spec, devices.device_of(spec), progress)
    library = import_library()
    kept = Kept()
    quantiser = Quantiser(library, spec.format or DEFAULT_LOW_BIT)
    config = checkpoint.load_config(spec)
    if spec.low_bit_folder:
        progress(0.05, f"reading {spec.path} as {quantiser.format}")
        module, parameters = _load_low_bit(spec, config, quantiser)
    else:
        progress(0.05, f"reading {spec.path}")
        module = checkpoint.load_module(spec, config, checkpoint.dtype(spec, config))
        parameters = checkpoint.parameters(module)
        kept = quantiser.loss_of(module, published.noted(module))
        quantiser.convert(module, progress)
    quantiser.use_kernels(module)
    return assemble(
        spec,
        module,
        format_name=quantiser.label(module),
        parameters=parameters,
        tolerance=_TOLERANCE,
        progress=progress,
        kept=kept,
    )


class Quantiser:
    """Replaces linear layers with bigdl-llm's `LowBitLinear` in one format."""

    def __init__(self, library: Any, format_name: str) -> None:
        self.format = format_name
        self._library = library
        self._qtype: int = library.ggml_tensor_qtype[format_name]
        self.parameter_class: Any = library.FP4Params

    def convert(self, module: Any, progress: Progress) -> None:
        """Quantise a loaded module in place, layer by layer; everything else becomes fp32."""
        direct = read_directly(module)
        layers = [entry for entry in linear_layers(module) if entry[2] not in direct]
        for done, (parent, name, layer) in enumerate(layers):
            progress(0.3 + 0.5 * done / len(layers), f"quantising to {self.format}")
            setattr(parent, name, self._layer(layer, self._blocks(matrix_of(layer).float())))
        mixtures = [part for _, part in experts.expert_modules(module)]
        for done, part in enumerate(mixtures):
            progress(0.5 + 0.3 * done / len(mixtures), f"quantising experts to {self.format}")
            experts.convert(part, self._blocks, self._library, self._qtype)
        module.to(torch.float32)

    def loss_of(self, module: Any, kept: Kept) -> Kept:
        """What this format will cost the linear layers of a module that was published quantised."""
        if not kept.label or self.format != DEFAULT_LOW_BIT:
            return Kept(kept.label, (self.format,) if kept.label else ())
        loss = Loss()
        for _, _, layer in linear_layers(module):
            loss.add(matrix_of(layer), matrices.sym_int4(matrix_of(layer)))
        return Kept(kept.label, (self.format,), math.hypot(loss.relative, kept.error or 0.0))

    def _blocks(self, weight: torch.Tensor) -> torch.Tensor:
        """Quantise (rows, columns) fp32 to bytes."""
        return self._library.ggml_convert_qtype(weight.contiguous(), self._qtype, device="cpu")

    def use_kernels(self, module: Any) -> None:
        """Let our kernels compute 4-bit experts, if they can; then the module cannot be saved."""
        if self.format == DEFAULT_LOW_BIT:
            for part in module.modules():
                if hasattr(part, "low_bit_shapes"):
                    experts.use_kernels(part)

    def label(self, module: Any) -> str:
        """Return the format, and the type of any experts that could not be quantised."""
        tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        plain_weights = sum(
            weight.numel()
            for weight in module.parameters()
            if weight.is_floating_point() and weight.ndim > 1 and id(weight) not in tables
        )
        packed = sum(
            weight.numel() for weight in module.parameters() if weight.dtype == torch.uint8
        )
        return f"{self.format}+fp32" if plain_weights > packed / _NEGLIGIBLE else self.format

    def adopt(self, module: Any, state: dict[str, torch.Tensor]) -> int:
        """Give an empty (meta) module the packed weights of `state`, removing them from it.

        Returns how many weights the packed layers represent.
        """
        count = 0
        for parent, name, layer in list(linear_layers(module)):
            key = _key_of(module, parent, name)
            packed = state.get(key)
            if packed is None or packed.dtype != torch.uint8:
                continue
            del state[key]
            setattr(parent, name, self._layer(layer, packed))
            count += layer.weight.numel()
        for name, part in list(experts.expert_modules(module)):
            own = {key: f"{name}.{key}" for key in experts.matrix_names(part)}
            if all(key in state and state[key].dtype == torch.uint8 for key in own.values()):
                packed = {key: state.pop(key_) for key, key_ in own.items()}
                count += experts.adopt(part, packed, self._library, self._qtype)
        return count

    def _layer(self, layer: Any, packed: torch.Tensor) -> nn.Module:
        """Return a LowBitLinear in place of `layer`, with `packed` (bytes,) uint8 as its weights.

        :raises ValueError: the number of bytes does not match the layer and format.
        """
        outputs, inputs = shape = tuple(matrix_of(layer).shape)
        expected = self._library.ggml_convert_qtype(
            torch.empty((1, inputs)), self._qtype, device="cpu", convert_shape_only=True
        ).numel()
        if packed.numel() != expected * outputs:
            raise ValueError(
                f"a layer of {outputs} x {inputs} weights in {self.format} "
                f"takes {expected * outputs} bytes, not {packed.numel()}"
            )
        with torch.device("meta"):
            low_bit = contiguous_class(self._library.LowBitLinear)(
                inputs, outputs, self._qtype, layer.bias is not None
            )
        low_bit._parameters["weight"] = self._library.FP4Params(  # noqa: SLF001 - as bigdl-llm does
            data=packed, requires_grad=False, quantized=True, _shape=shape, qtype=self._qtype
        )
        if layer.bias is not None:
            low_bit.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        return low_bit


def _key_of(module: Any, parent: nn.Module, name: str) -> str:
    prefix = next(path for path, part in module.named_modules() if part is parent)
    return f"{prefix}.{name}.weight" if prefix else f"{name}.weight"


def _load_low_bit(spec: ModelSpec, config: Any, quantiser: Quantiser) -> tuple[Any, int]:
    """Return (module, number of weights) for a folder that `save_low_bit` wrote.

    :raises ModelNotLoadable: weights are missing or do not fit.
    """
    empty = importlib.import_module("accelerate").init_empty_weights
    try:
        with empty(include_buffers=False):
            module = transformers().AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=spec.trust_remote_code
            )
        state = low_bit_folders.read(spec.path, quantiser.parameter_class)
        packed = quantiser.adopt(module, state)
        rest = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
        module.load_state_dict(rest, strict=False, assign=True)
        module.tie_weights()
        for part in module.modules():
            if hasattr(part, "layers_are_rescaled"):  # RWKV's were before they were packed
                part.layers_are_rescaled = True
    except ModelNotLoadable:
        raise
    except Exception as error:
        raise ModelNotLoadable(f"{spec.path}: {checkpoint.first_line(error)}") from error
    missing = [name for name, weight in module.named_parameters() if weight.is_meta]
    if missing:
        raise ModelNotLoadable(
            f"{spec.path}: {len(missing)} weights are missing: {', '.join(missing[:3])}"
        )
    others = sum(weight.numel() for weight in module.parameters() if weight.dtype != torch.uint8)
    return module, packed + others


def import_library() -> Any:
    """Return bigdl-llm's module of low-bit layers.

    On import it configures the root logger and prints; both are suppressed. It mistakes every CPU
    with AVX-VNNI for one with AMX, which is corrected here.

    :raises ModelNotLoadable: it is not installed, or does not load here.
    """
    name = "bigdl.llm.transformers.low_bit_linear"
    try:
        with _quiet_logging():
            library: Any = importlib.import_module(name)
    except Exception as error:
        raise ModelNotLoadable(
            f"bigdl-llm cannot be imported: {checkpoint.first_line(error)}; install "
            f"penstock[worker] on Linux x86-64, or set backend = 'transformers' for the model"
        ) from error
    library.IS_SPR = devices.has_amx()
    return library


@contextmanager
def _quiet_logging() -> Generator[None]:
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, sys.excepthook
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.excepthook = hook
