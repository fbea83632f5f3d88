"""A model's memory needs, from its files' headers alone. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.mixers import state_values
from penstock.models.architecture.reading import describe
from penstock.models.architecture.sizes import cached_values
from penstock.models.backends.lean import reach
from penstock.models.catalogue import published_shapes, quantisation
from penstock.models.catalogue.context import positions
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.model_folder import read_config
from penstock.models.spec import FP8_FORMAT
from penstock.models.weights import files

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.architecture.description import Architecture
    from penstock.models.spec import ModelSpec

LOW_BITS: Final = {
    "sym_int4": 34 * 8 / 64,
    "asym_int4": 36 * 8 / 64,
    "sym_int5": 42 * 8 / 64,
    "asym_int5": 44 * 8 / 64,
    "sym_int8": 66 * 8 / 64,
}
"""Bits a weight of bigdl-llm's blocks of 64, including their scales (and minima)."""
_OURS: Final = {"int4": 4 + 16 / 128, "int8": 8.0}
"""Bits a weight of our own formats: INT4 with an fp16 scale for 128, INT8 with one a row."""
_OWN_KERNELS: Final = frozenset({"native", "openvino"})
_U8_SHARE: Final = 0.59
"""Size of OpenVINO's 8-bit keys and values relative to 16-bit ones, including scales."""
_NATIVE_U8: Final = 1 + 4 / 64
"""Bytes of one of the native kernels', with a scale for each head; heads of 64 elements or more."""
_WIDTHS: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1}
_PLAIN: Final = {"fp32": 4, "fp16": 2, "bf16": 2}
_TABLES: Final = ("embed", "wte.", "wpe.")
"""Parts of the names of tables that are looked up, not multiplied."""
_TOKENS: Final = ("embed_tokens.weight", "wte.weight")
_HEADS: Final = ("lm_head.weight", "output_layer.weight")
_NO_MATRICES: Final = (
    "gate.weight",
    "router.weight",
    "router.layer.weight",
    "router.proj.weight",
    "bias",
)
"""Ends of the names of routers and biases, which are not quantised."""
_HALVES: Final = ("kv_b_proj.weight", "_adapter_list.")
"""Parts of the names of what the native kernels hold in 16 bit in every low-bit format."""
_EXPERTS: Final = ("experts", "moe", "mlp.input_linear", "mlp.output_linear")
"""Parts of the names of three-dimensional tensors that contain all experts' matrices."""
_PLAIN_EXPERTS: Final = frozenset({"llama4", "llama4_text", "dbrx", "jetmoe", "step3p7"})
"""Architectures whose experts bigdl's backend leaves in fp32, as their card states too."""
_MX_BLOCKS: Final = "_blocks"
_STATE_WIDTH: Final = 4
_ON_GPUS: Final = ("int2", "int3", "int4", "fp8", "mxfp4", "q4_0", "q4_1")
"""Ends of the labels of codes that are held on GPUs."""
OVERHEAD_BYTES: Final = 1024**3
"""Python, the libraries and a step's buffers."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that a worker needs for one answer at full context.

    `weights_bytes` is the size in memory, in the spec's format; `kv_bytes` is that of one slot, its
    state included.
    """

    file_bytes: int
    parameters: int
    weights_bytes: int
    context_length: int
    kv_bytes: int

    @property
    def needed_bytes(self) -> int:
        """The least memory of a device that can serve the model."""
        return self.weights_bytes + self.kv_bytes + OVERHEAD_BYTES


def measure(spec: ModelSpec) -> Footprint:
    """Return a model's footprint; anything missing in its files counts as 0."""
    found = files.all_files(spec.path)
    config = read_config(spec.path)
    tensors = _of_gguf(spec.path) or _unpacked(
        [tensor for file in found for tensor in _tensors(file)], config
    )
    if config.get("model_type") in _PLAIN_EXPERTS and spec.format in LOW_BITS:
        tensors = [replace(tensor, plain=tensor.of_experts) for tensor in tensors]
    context = spec.context_length or positions(config) or 0
    return Footprint(
        file_bytes=sum(file.stat().st_size for file in found),
        parameters=sum(_weights(spec, tensor) for tensor in tensors),
        weights_bytes=math.ceil(sum(_bytes(spec, tensor) for tensor in _held(spec, tensors)))
        if not _as_published(spec, config)
        else sum(file.stat().st_size for file in found),
        context_length=context,
        kv_bytes=math.ceil(context * kv_values_a_token(config) * _kv_width(spec))
        + _STATE_WIDTH * state_values_a_slot(config),
    )


def _of_gguf(path: Path) -> list[_Tensor]:
    """Tensors of a GGUF file in 16 bit; none if there is no such file, or it cannot be read."""
    try:
        header = gguf_folder.header(path)
    except ValueError:
        return []
    entries = {} if header is None else header.tensors
    return [_Tensor(name, "BF16", entry.shape) for name, entry in entries.items()]


def _as_published(spec: ModelSpec, config: dict[str, Any]) -> bool:
    """Whether a checkpoint's own codes are held: by the native kernels, or on a GPU."""
    if spec.format is not None or not quantisation.is_stated(config):
        return False
    if spec.backend == "native":
        return True
    alone = spec.device != "cpu" and spec.tensor_parallel == 1
    return alone and spec.backend == "transformers" and _on_gpus(config)


def _on_gpus(config: dict[str, Any]) -> bool:
    """Whether the lean decoder computes with the codes of a checkpoint."""
    try:
        found, model = quantisation.of_config(config), describe(config)
    except (quantisation.UnknownQuantisation, NotDescribed):
        return False
    sizes = {layer.attention.head_size for layer in model.layers}
    whole = all(reach.padded_size(size) == size for size in sizes)
    return (
        found is not None and found.label.endswith(_ON_GPUS) and whole and not reach.beyond(model)
    )


def _unpacked(tensors: list[_Tensor], config: dict[str, Any]) -> list[_Tensor]:
    """Codes and what belongs to them as what they are read as: matrices in 16 bit."""
    if not quantisation.is_stated(config) and not any(_MX_BLOCKS in one.name for one in tensors):
        return tensors
    shapes = {one.name: one.shape for one in tensors}
    found: list[_Tensor] = []
    for one in tensors:
        dense = published_shapes.dense(one.name, shapes)
        if dense is None:
            found.append(one)
        elif dense[1]:
            found.append(_Tensor(dense[0], "BF16", dense[1]))
    return found


def _held(spec: ModelSpec, tensors: list[_Tensor]) -> list[_Tensor]:
    """Return the tensors that a backend has in memory: in low bit, a tied head is a copy."""
    embeddings = [tensor for tensor in tensors if tensor.name.endswith(_TOKENS)]
    own_head = spec.backend in _OWN_KERNELS or _bits(spec) is not None
    if not own_head or any(tensor.name.endswith(_HEADS) for tensor in tensors):
        return tensors
    return tensors + [_Tensor("lm_head.weight", tensor.kind, tensor.shape) for tensor in embeddings]


def _kv_width(spec: ModelSpec) -> float:
    """Return the bytes of one number in the KV cache of a spec's backend."""
    if spec.backend == "native" or (spec.backend in _OWN_KERNELS and spec.format != "fp32"):
        if spec.kv_cache_type != "u8":
            return 2
        return _NATIVE_U8 if spec.backend == "native" else 2 * _U8_SHARE
    return 2 if spec.format in {"bf16", "fp16"} or spec.device != "cpu" else 4


def kv_values_a_token(config: dict[str, Any]) -> int:
    """Return how many numbers one token adds to the KV cache."""
    model = _described(config)
    if model is not None:
        return sum(cached_values(layer.attention) for layer in model.attending)
    text = config.get("text_config") or config
    layers = _number(text, "num_hidden_layers", "n_layer", "num_layers")
    heads = _number(text, "num_attention_heads", "n_head")
    kv_heads = _number(text, "num_key_value_heads", "multi_query_group_num") or heads
    hidden = _number(text, "hidden_size", "n_embd")
    head = _number(text, "head_dim", "kv_channels") or (hidden // heads if heads else 0)
    return 2 * layers * kv_heads * head


def state_values_a_slot(config: dict[str, Any]) -> int:
    """Return how many numbers the layers without a KV cache keep of a sequence, as far as is known."""
    model = _described(config)
    mixers = () if model is None else (layer.mixer for layer in model.layers)
    return sum(state_values(mixer) for mixer in mixers if mixer is not None)


def _described(config: dict[str, Any]) -> Architecture | None:
    try:
        return describe(config)
    except NotDescribed:
        return None


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    kind: str
    shape: tuple[int, ...]
    plain: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def rest(self) -> int:
        return math.prod(self.shape[2:])

    @property
    def is_matrix(self) -> bool:
        """Whether low bit applies to it: a linear layer's weights, or those of experts."""
        if self.name.endswith(_NO_MATRICES) or any(part in self.name for part in _TABLES):
            return False
        return not self.plain and (len(self.shape) == 2 or self.of_experts)  # noqa: PLR2004  a matrix

    @property
    def of_experts(self) -> bool:
        """Whether it contains the matrices of all experts of a layer."""
        together = len(self.shape) == 3 or ".experts.mlp." in self.name  # noqa: PLR2004  matrices
        return together and any(part in self.name for part in _EXPERTS)


def _tensors(file: Path) -> list[_Tensor]:
    """Return the tensors in a safetensors file's header; none if it has no valid header."""
    try:
        return [
            _Tensor(name, one["dtype"], tuple(one["shape"]))
            for name, one in files.header(file).items()
            if name != "__metadata__"
        ]
    except (KeyError, TypeError):
        return []


def _weights(spec: ModelSpec, tensor: _Tensor) -> int:
    """Return the number of weights in a tensor, unpacked."""
    if tensor.kind == "U8" and spec.format in LOW_BITS:
        return round(tensor.count * 8 / LOW_BITS[spec.format])
    return tensor.count


def _bytes(spec: ModelSpec, tensor: _Tensor) -> float:
    if tensor.kind == "U8":
        return tensor.count
    stored = tensor.count * _WIDTHS.get(tensor.kind, 4)
    if spec.format in _PLAIN:
        return tensor.count * _PLAIN[spec.format]
    if spec.format == FP8_FORMAT:
        return _in_fp8(tensor)
    bits = _bits(spec)
    if bits is None:
        return stored
    if tensor.is_matrix:
        halves = spec.backend == "native" and any(part in tensor.name for part in _HALVES)
        return tensor.count * (2 if halves else bits / 8)
    table = len(tensor.shape) == 2 and not tensor.name.endswith("bias")  # noqa: PLR2004  a matrix
    return stored if table and spec.backend in _OWN_KERNELS else tensor.count * 4


def _bits(spec: ModelSpec) -> float | None:
    """Return the bits a weight of a spec's low-bit format; None if it has none."""
    form = spec.format or ("int8" if spec.backend in _OWN_KERNELS else "")
    return (LOW_BITS | _OURS).get(form)


def _in_fp8(tensor: _Tensor) -> int:
    """Return the bytes of a tensor in FP8: a layer's matrix with a scale a row, others in bf16.

    Experts have a scale for 128 columns.
    """
    if tensor.of_experts or (".experts." in tensor.name and len(tensor.shape) == 2):  # noqa: PLR2004  a matrix
        return tensor.count + tensor.count // 32
    inside = len(tensor.shape) == 2 and ".layers." in tensor.name  # noqa: PLR2004  a matrix
    return tensor.count + 4 * tensor.shape[0] if inside else 2 * tensor.count


def _number(config: dict[str, Any], *names: str) -> int:
    value = next((config[name] for name in names if isinstance(config.get(name), int)), 0)
    return max(int(value), 0)
