"""Which of the backends that compute decoders themselves support a model. Imports no torch.

Decided by `config.json`, the CPU, and the installed packages.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import dense_part
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.mixers import mixer_size, ranks
from penstock.models.architecture.reading import describe
from penstock.models.architecture.sizes import result_size
from penstock.models.backends.llama_family import NotInFamily, plain
from penstock.models.backends.native import library, reach
from penstock.models.catalogue import quantisation
from penstock.models.catalogue.text_part import is_plain

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture

_CPU_INFO: Final = Path("/proc/cpuinfo")
_WHOLE_GROUPS: Final = 64
"""Weights of a row that share a scale in sym_int4."""


@cache
def is_installed() -> bool:
    """Whether OpenVINO's runtime is in this environment."""
    return importlib.util.find_spec("openvino") is not None


@cache
def native_isa() -> library.Isa | None:
    """Return the instructions that the native kernels would use; None if they cannot run.

    :raises ModelNotLoadable: the library is missing; the message names the reason.
    """
    return library.best_isa()


def native_wins() -> bool:
    """Whether the native kernels are there and measured to be the fastest on such a CPU.

    That is, those with integer dot products and without AMX, which OpenVINO uses and they do not.
    """
    try:
        fast = native_isa() in (library.Isa.AVX_VNNI, library.Isa.AVX512_VNNI)
    except ModelNotLoadable:
        return False
    return fast and not _has_amx()


@cache
def _has_amx() -> bool:
    try:
        return "amx_int8" in _CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False


def fastest(
    config: dict[str, Any], wish: Literal["auto", "openvino", "native"]
) -> Literal["openvino", "native"] | None:
    """Return the backend of a sym_int4 model on a CPU; None is bigdl-llm itself."""
    model = described(config)
    if model is None:
        return None
    native = has_whole_groups(model) and reach.beyond(model) is None
    if not in_llama_family(model):  # which OpenVINO's graph is not made of
        return "native" if native and has_native() else None
    native = native and wish != "openvino"
    if native and (wish == "native" or native_wins()):
        return "native"
    return "openvino" if is_installed() else None


def described(config: dict[str, Any]) -> Architecture | None:
    """Return the description of a configuration; None if there is none."""
    if not is_plain(config):
        return None
    try:
        model = describe(config)
    except NotDescribed:
        return None
    return model if _is_read(config) else None


def _is_read(config: dict[str, Any]) -> bool:
    """Whether a checkpoint is not quantised, or in a way that is read here."""
    try:
        quantisation.of_config(config)
    except quantisation.UnknownQuantisation:
        return False
    return True


def computes_published(config: dict[str, Any]) -> bool:
    """Whether the native kernels are to compute with the codes of a checkpoint as it was published."""
    try:
        published = quantisation.of_config(config)
    except quantisation.UnknownQuantisation:
        return False
    model = described(config)
    if published is None or not published.integers or model is None:
        return False
    if not has_whole_groups(model) or reach.beyond(model) is not None:
        return False
    return reach.holds_codes(model) and has_native()


def computes_stored(config: dict[str, Any]) -> bool:
    """Whether the native kernels are to compute a model with its weights as they are stored.

    They are, if layers keep a state, which only they batch; or if attention is latent or layers have
    inputs of their own or share keys, of which Transformers' layers hold many times more in memory.
    """
    model = described(config)
    if model is None or quantisation.is_stated(config):
        return False
    apart = any(
        layer.mixer is not None
        or layer.attention.latent is not None
        or layer.attention.value_norm is not None
        for layer in model.layers
    )
    return apart and reach.beyond(model) is None and has_native()


def in_llama_family(model: Architecture) -> bool:
    """Whether a description asks for no more than the Llama family has."""
    try:
        plain(model)
    except NotInFamily:
        return False
    return True


def has_native() -> bool:
    """Whether the native kernels are there, and this CPU can compute with them."""
    try:
        return native_isa() is not None
    except ModelNotLoadable:
        return False


def has_whole_groups(model: Architecture) -> bool:
    """Whether every matrix can be held in 4 bit."""
    columns = {model.hidden_size, 0 if model.inputs is None else model.inputs.size}
    for layer in model.layers:
        columns |= {layer.mlp.size, result_size(layer.attention)}
        latent = layer.attention.latent
        columns |= set() if latent is None else {latent.query_rank, latent.rank}
        if layer.mixer is not None:
            columns |= {mixer_size(layer.mixer), *ranks(layer.mixer)}
        shared = dense_part(layer.mlp)
        columns |= set() if shared is None else {shared.size}
    return not any(size % _WHOLE_GROUPS for size in columns)
