"""The `bigdl` backend: bigdl-llm's low-bit linear layers inside a Transformers module.

bigdl-llm holds the weights and multiplies by them; loading, attention and stepping are ours. Its
own loaders are not used: they patch forwards for Transformers of 2023, and read pickles.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.backends import low_bit_experts as experts
from penstock.models.backends.lean.products import low_bit
from penstock.models.backends.transformers.model import assemble
from penstock.models.loading import checkpoint
from penstock.models.loading.libraries import transformers, transformers_module
from penstock.models.spec import DEFAULT_LOW_BIT

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from penstock.models.loading.assembled import Assembled, Progress
    from penstock.models.spec import ModelSpec

BLOCK = 64  # every format's rows are whole blocks of this many weights
logger = logging.getLogger(__name__)

_NEGLIGIBLE = 10
"""Bytes in low bit for each weight in fp32: what is held of routers and norms is far less."""

_TOLERANCE = 0.1  # its kernels round activations, and differently for many rows than for few


def load(spec: ModelSpec, progress: Progress) -> Assembled:
    """Load a checkpoint and hold it in low bit, or a folder that `save_low_bit` wrote.

    :raises ModelNotLoadable: with one line that says why.
    """
    if spec.device != "cpu":
        return low_bit.load(spec, devices.device_of(spec), progress)
    library = import_library()
    quantiser = Quantiser(library, spec.format or DEFAULT_LOW_BIT)
    config = checkpoint.load_config(spec)
    if spec.low_bit_folder:
        progress(0.05, f"reading {spec.path} as {quantiser.format}")
        module, parameters = _load_low_bit(spec, config, quantiser)
    else:
        progress(0.05, f"reading {spec.path}")
        module = checkpoint.load_module(spec, config, checkpoint.dtype(spec, config))
        parameters = checkpoint.parameters(module)
        quantiser.convert(module, progress)
    quantiser.use_kernels(module)
    return assemble(
        spec,
        module,
        format_name=quantiser.label(module),
        parameters=parameters,
        tolerance=_TOLERANCE,
        progress=progress,
    )


class Quantiser:
    """Replaces linear layers by bigdl-llm's `LowBitLinear` of one format."""

    def __init__(self, library: Any, format_name: str) -> None:
        self.format = format_name
        self._library = library
        self._qtype: int = library.ggml_tensor_qtype[format_name]
        self.parameter_class: Any = library.FP4Params

    def convert(self, module: Any, progress: Progress) -> None:
        """Quantise a loaded module in place, layer by layer; the rest becomes fp32."""
        direct = read_directly(module)
        found = [entry for entry in linear_layers(module) if entry[2] not in direct]
        for done, (parent, name, layer) in enumerate(found):
            progress(0.3 + 0.5 * done / len(found), f"quantising to {self.format}")
            setattr(parent, name, self._layer(layer, self._blocks(matrix_of(layer).float())))
        mixtures = [part for _, part in experts.expert_modules(module)]
        for done, part in enumerate(mixtures):
            progress(0.5 + 0.3 * done / len(mixtures), f"quantising experts to {self.format}")
            experts.convert(part, self._blocks, self._library, self._qtype)
        module.to(torch.float32)

    def _blocks(self, weight: torch.Tensor) -> torch.Tensor:
        """(rows, columns) fp32 -> bytes."""
        return self._library.ggml_convert_qtype(weight.contiguous(), self._qtype, device="cpu")

    def use_kernels(self, module: Any) -> None:
        """Let our own kernels compute experts in 4 bit, where they can; no more can be written."""
        if self.format == DEFAULT_LOW_BIT:
            for part in module.modules():
                if hasattr(part, "low_bit_shapes"):
                    experts.use_kernels(part)

    def label(self, module: Any) -> str:
        """The format, and what a part is in that neither a linear layer nor known experts hold."""
        tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        kept = sum(
            weight.numel()
            for weight in module.parameters()
            if weight.is_floating_point() and weight.ndim > 1 and id(weight) not in tables
        )
        packed = sum(
            weight.numel() for weight in module.parameters() if weight.dtype == torch.uint8
        )
        return f"{self.format}+fp32" if kept > packed / _NEGLIGIBLE else self.format

    def adopt(self, module: Any, state: dict[str, torch.Tensor]) -> int:
        """Give an empty (meta) module the packed weights of `state`, taking them out of it.

        Returns how many weights the packed layers stand for.
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
                packed = {key: state.pop(place) for key, place in own.items()}
                count += experts.adopt(part, packed, self._library, self._qtype)
        return count

    def _layer(self, layer: Any, packed: torch.Tensor) -> nn.Module:
        """A LowBitLinear in place of `layer` with `packed` (bytes,) uint8 as its weights.

        :raises ValueError: the bytes are not those of such a layer in this format.
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
            low_bit = _contiguous_class(self._library.LowBitLinear)(
                inputs, outputs, self._qtype, layer.bias is not None
            )
        low_bit._parameters["weight"] = self._library.FP4Params(  # noqa: SLF001 - as bigdl-llm does
            data=packed, requires_grad=False, quantized=True, _shape=shape, qtype=self._qtype
        )
        if layer.bias is not None:
            low_bit.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        return low_bit


@cache
def _contiguous_class(kind: Any) -> Any:
    """bigdl-llm's layer for any input: its kernel reads a strided one as if it were contiguous."""

    class LowBitLinear(kind):
        """A LowBitLinear that lays its input out first, and takes an empty one."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """(..., in) -> (..., out) float32."""
            if x.numel() == 0:
                return x.new_empty((*x.shape[:-1], self.out_len), dtype=torch.float32)
            product: torch.Tensor = kind.forward(self, x.contiguous())
            return product

    return LowBitLinear


@torch.inference_mode()
def read_directly(module: Any) -> set[nn.Module]:
    """Linear layers whose weights their owner multiplies by itself, as some routers do.

    Found by one forward of two tokens: their owner runs and they do not. Packed weights would be
    read as numbers there. (That forward also lets a module change its weights once, as RWKV does.)
    """
    layers = list(linear_layers(module))
    ran: set[nn.Module] = set()
    parts = {part for parent, _, layer in layers for part in (parent, layer)}
    hooks = [part.register_forward_pre_hook(lambda part, _: ran.add(part)) for part in parts]
    try:
        module.eval()(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=False)
    except Exception as error:  # noqa: BLE001 - the check at the load's end has the last word
        logger.info("no forward before quantising: %s", checkpoint.first_line(error))
        return set()
    finally:
        for hook in hooks:
            hook.remove()
    return {layer for parent, _, layer in layers if parent in ran and layer not in ran}


def linear_layers(module: Any) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name, layer) of every linear layer whose rows are whole blocks."""
    transposed = transformers_module("pytorch_utils").Conv1D
    for parent in module.modules():
        for name, child in parent.named_children():
            # Routers that subclass it return more than a product.
            if type(child) in {nn.Linear, transposed} and matrix_of(child).shape[1] % BLOCK == 0:
                yield parent, name, child


def matrix_of(layer: Any) -> torch.Tensor:
    """(outputs, inputs) of a linear layer; GPT-2's have theirs the other way round."""
    weight: torch.Tensor = layer.weight.data
    return weight if isinstance(layer, nn.Linear) else weight.T


def _key_of(module: Any, parent: nn.Module, name: str) -> str:
    prefix = next(path for path, part in module.named_modules() if part is parent)
    return f"{prefix}.{name}.weight" if prefix else f"{name}.weight"


def _load_low_bit(spec: ModelSpec, config: Any, quantiser: Quantiser) -> tuple[Any, int]:
    """(module, weights that it stands for) of a folder that `save_low_bit` wrote.

    :raises ModelNotLoadable: weights are missing or do not fit.
    """
    empty = importlib.import_module("accelerate").init_empty_weights
    try:
        with empty(include_buffers=False):
            module = transformers().AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=spec.trust_remote_code
            )
        state = _read_state(spec, quantiser)
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


def _read_state(spec: ModelSpec, quantiser: Quantiser) -> dict[str, torch.Tensor]:
    """All tensors of the folder's files.

    bigdl-llm of 2023 wrote `pytorch_model.bin`; it is read by torch's restricted unpickler, which
    builds tensors and runs no code.
    """
    state: dict[str, torch.Tensor] = {}
    files = sorted(spec.path.glob("*.safetensors"))
    if files:
        load_file = importlib.import_module("safetensors.torch").load_file
        for file in files:
            state.update(load_file(file))
        return state
    files = sorted(spec.path.glob("pytorch_model*.bin"))
    if not files:
        raise ModelNotLoadable(f"{spec.path}: there are no weights (*.safetensors, *.bin)")
    with torch.serialization.safe_globals([quantiser.parameter_class]):
        for file in files:
            state.update(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    return {name: tensor.detach().as_subclass(torch.Tensor) for name, tensor in state.items()}


def save_low_bit(
    module: Any, path: Any, format_name: str, *, rest: torch.dtype = torch.float32
) -> None:
    """Write a quantised module as bigdl-llm's `save_low_bit` does, in safetensors.

    `rest` is what the weights that are not in low bit are written in.

    :raises ValueError: our kernels have the module's experts, in another order.
    """
    if any(getattr(part, "mixture", None) is not None for part in module.modules()):
        raise ValueError("experts are packed for our kernels")
    module.config.dtype = rest
    module.config.update({"bigdl_transformers_low_bit": format_name, "tie_word_embeddings": False})
    state = {
        name: _written(tensor.detach().as_subclass(torch.Tensor), rest)
        for name, tensor in module.state_dict().items()
    }
    path.mkdir(parents=True, exist_ok=True)
    module.config.save_pretrained(path)
    module.generation_config.save_pretrained(path)
    save_file = importlib.import_module("safetensors.torch").save_file
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    keys = json.dumps({"all_checkpoint_keys": list(state)})
    (path / "load_keys.json").write_text(keys, encoding="utf-8")


def _written(tensor: torch.Tensor, rest: torch.dtype) -> torch.Tensor:
    return (tensor.to(rest) if tensor.is_floating_point() else tensor).contiguous()


def import_library() -> Any:
    """bigdl-llm's module of low-bit layers.

    It sets up the root logger as it is imported and prints at times; both are kept from us. It
    takes every CPU with AVX-VNNI for one with AMX; it is told what is so.

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
