"""A checkpoint's quantisation, read from its configuration. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from penstock.models.catalogue.model_folder import read_config

if TYPE_CHECKING:
    from pathlib import Path

Layout = Literal[
    "gptq", "awq", "compressed-tensors", "fp8", "mxfp4", "bitsandbytes", "gguf", "torchao"
]

READ: Final = (
    "GPTQ, AWQ (gemm), AutoRound, compressed-tensors, FP8, MXFP4, bitsandbytes (4 and 8 bit), "
    "torchao (int4, int8, float8), GGUF"
)
"""What is read here, for messages."""

_COMPRESSED: Final = (
    "pack-quantized",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "mixed-precision",
    "dense",
)
_PACKED_FOR_GPUS: Final = ("tile_packed_to_4d", "plain_int32", "preshuffled", "marlin", "sparse")
_BITS: Final = (2, 3, 4, 5, 6, 7, 8)
_OLD_FILES: Final = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where a quantisation was written down before config.json had a place for it."""


class UnknownQuantisation(Exception):
    """A method or a layout that is not read here; the message names it."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a checkpoint's matrices lie in its files.

    `label` is short (`gptq-int4`); `integers`: codes are whole numbers with scales, which
    our kernels may compute with. `zero_added` is what a stored zero of GPTQ's lacks. `block` is of
    FP8: rows and columns that share a scale.
    """

    method: str
    layout: Layout
    label: str
    integers: bool
    zero_added: int = 0
    block: tuple[int, int] | None = None


def of_folder(path: Path, config: dict[str, Any] | None = None) -> Quantisation | None:
    """Return the quantisation of a model's folder; None if its weights are not quantised.

    :raises UnknownQuantisation: by a method, or in a layout, that is not read here.
    """
    config = read_config(path) if config is None else config
    stated = _stated(config)
    if stated is None:
        old = ((read_config(path, name), method) for name, method in _OLD_FILES.items())
        stated = next(({"quant_method": method, **own} for own, method in old if own), None)
    return None if stated is None else of_stated(stated)


def of_config(config: dict[str, Any]) -> Quantisation | None:
    """Return the quantisation in a configuration alone.

    :raises UnknownQuantisation: by a method, or in a layout, that is not read here.
    """
    stated = _stated(config)
    return None if stated is None else of_stated(stated)


def _stated(config: dict[str, Any]) -> dict[str, Any] | None:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            own = cast("dict[str, Any]", part)
            found = own.get("quantization_config") or own.get("compression_config")
            if isinstance(found, dict):
                return cast("dict[str, Any]", found)
    return None


def is_stated(config: dict[str, Any]) -> bool:
    """Whether a configuration speaks of a quantisation at all."""
    return _stated(config) is not None


def without(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of the same model, not quantised."""
    plain = {name: value for name, value in config.items() if name not in _PLACES}
    text = plain.get("text_config")
    if isinstance(text, dict):
        plain["text_config"] = without(cast("dict[str, Any]", text))
    return plain


_PLACES: Final = ("quantization_config", "compression_config")


def of_stated(stated: dict[str, Any]) -> Quantisation:
    """Return the quantisation in a `quantization_config`.

    :raises UnknownQuantisation: a method, or a layout, that is not read here.
    """
    method = str(stated.get("quant_method") or "").lower().replace("_", "-").removeprefix("intel/")
    readers = {
        "gptq": _gptq,
        "awq": _awq,
        "auto-round": _auto_round,
        "compressed-tensors": _compressed,
        "fp8": _fp8,
        "fbgemm-fp8": _fp8,
        "mxfp4": _mxfp4,
        "bitsandbytes": _bitsandbytes,
        "gguf": _gguf,
        "torchao": _torchao,
    }
    reader = readers.get(method)
    if reader is None:
        raise UnknownQuantisation(f"quantised by {name_of(stated)}, which is not read here: {READ}")
    return reader(stated)


def name_of(stated: dict[str, Any]) -> str:
    """The method's own name with that of its format, for messages."""
    method = str(stated.get("quant_method") or "an unnamed method")
    detail = stated.get("quant_algo") or stated.get("format") or stated.get("bits")
    return f"{method} ({detail})" if detail else method


def _bits(stated: dict[str, Any], allowed: tuple[int, ...], *names: str) -> int:
    given = next((stated[name] for name in names if stated.get(name) is not None), None)
    if given not in allowed:
        listed = ", ".join(map(str, allowed))
        raise UnknownQuantisation(
            f"quantised by {name_of(stated)} in {given} bit, which is not read here: {listed} are"
        )
    return cast("int", given)


def _gptq(stated: dict[str, Any]) -> Quantisation:
    bits = _bits(stated, _BITS, "bits")
    second = stated.get("checkpoint_format") == "gptq_v2"
    kind = str(stated.get("checkpoint_format") or "gptq")
    if kind not in {"gptq", "gptq_v2"}:
        raise UnknownQuantisation(f"GPTQ in the layout {kind!r}, which is not read here: gptq is")
    return Quantisation("gptq", "gptq", f"gptq-int{bits}", True, 0 if second else 1)


def _awq(stated: dict[str, Any]) -> Quantisation:
    bits = _bits(stated, (4,), "bits", "w_bit")
    version = str(stated.get("version") or "gemm").lower()
    if version != "gemm":
        raise UnknownQuantisation(f"AWQ in the layout {version!r}, which is not read here: gemm is")
    return Quantisation("awq", "awq", f"awq-int{bits}", True)


def _auto_round(stated: dict[str, Any]) -> Quantisation:
    """AutoRound's own packing is GPTQ's second version; its exports are GPTQ's first, and AWQ's."""
    bits = _bits(stated, _BITS, "bits")
    packing = str(stated.get("packing_format") or stated.get("backend") or "auto_round")
    if "mx" in packing or "nv" in packing or stated.get("data_type", "int") not in {"int", None}:
        raise UnknownQuantisation(f"AutoRound as {packing!r}, which is not read here: integers are")
    label = f"auto-round-int{bits}"
    if "awq" in packing:
        return Quantisation("auto-round", "awq", label, True)
    return Quantisation("auto-round", "gptq", label, True, 1 if "gptq" in packing else 0)


def _compressed(stated: dict[str, Any]) -> Quantisation:
    kind = str(stated.get("format") or "pack-quantized")
    groups: dict[str, dict[str, Any]] = stated.get("config_groups") or {}
    kinds = {kind, *(str(one.get("format")) for one in groups.values() if one.get("format"))}
    if unknown := sorted(kinds.difference(_COMPRESSED)):
        raise UnknownQuantisation(
            f"compressed-tensors in the format {unknown[0]!r}, which is not read here: "
            f"{', '.join(_COMPRESSED)}"
        )
    if stated.get("sparsity_config", {}).get("format", "dense") != "dense":
        raise UnknownQuantisation("compressed-tensors with sparse weights, which are not read here")
    weights = [cast("dict[str, Any]", one.get("weights") or {}) for one in groups.values()]
    integers = any(one.get("type", "int") == "int" for one in weights)
    bits = sorted({int(one["num_bits"]) for one in weights if one.get("num_bits")})
    block = next((one["block_structure"] for one in weights if one.get("block_structure")), None)
    widths = "/".join(map(str, bits)) or "8"
    label = f"compressed-tensors-{'int' if integers else 'fp'}{widths}"
    return Quantisation(
        "compressed-tensors", "compressed-tensors", label, integers, 0, _pair(block)
    )


def _fp8(stated: dict[str, Any]) -> Quantisation:
    if stated.get("fmt") not in {None, "e4m3", "e5m2", "float8_e4m3fn", "float8_e4m3"}:
        raise UnknownQuantisation(f"FP8 as {stated['fmt']!r}, which is not read here: e4m3 is")
    return Quantisation("fp8", "fp8", "fp8", False, 0, _pair(stated.get("weight_block_size")))


def _pair(block: Any) -> tuple[int, int] | None:
    if not isinstance(block, list | tuple):
        return None
    high, wide = cast("list[Any]", block)
    return int(high), int(wide)


def _mxfp4(stated: dict[str, Any]) -> Quantisation:
    del stated
    return Quantisation("mxfp4", "mxfp4", "mxfp4", False)


def _torchao(stated: dict[str, Any]) -> Quantisation:
    """What its weights are follows from the tensors; how they are packed, only from here."""
    kind = json.dumps(stated.get("quant_type") or "").lower()
    packed = next((name for name in _PACKED_FOR_GPUS if name in kind), None)
    if packed:
        raise UnknownQuantisation(f"torchao packed as {packed!r}, which is not read here: plain is")
    form = next((form for form in ("int4", "int8", "float8", "intx") if form in kind), None)
    if form is None or "nvfp4" in kind or "mxfp" in kind:
        raise UnknownQuantisation(
            f"quantised by torchao ({kind:.80}), which is not read here: {READ}"
        )
    label = f"torchao-{'fp8' if form == 'float8' else form}"
    return Quantisation("torchao", "torchao", label, form != "float8")


def _gguf(stated: dict[str, Any]) -> Quantisation:
    kind = str(stated.get("format"))
    return Quantisation("gguf", "gguf", f"gguf-{kind.lower()}", kind not in {"F32", "F16", "BF16"})


def _bitsandbytes(stated: dict[str, Any]) -> Quantisation:
    small = bool(stated.get("load_in_4bit") or stated.get("_load_in_4bit"))
    kind = str(stated.get("bnb_4bit_quant_type") or "fp4")
    label = f"bitsandbytes-{kind if small else 'int8'}"
    return Quantisation("bitsandbytes", "bitsandbytes", label, not small)
