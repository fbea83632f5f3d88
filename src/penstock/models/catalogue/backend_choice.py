"""Chooses the backend of a model and what depends on it: weight format, KV cache, several devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import BadSettings
from penstock.models.backends import suitability
from penstock.models.catalogue.model_folder import is_chatglm, stored_format
from penstock.models.catalogue.models_file import BIGDL_FORMATS, TRANSFORMERS_FORMATS
from penstock.models.catalogue.text_part import IMAGES_BY_MODULE
from penstock.models.spec import DEFAULT_LOW_BIT

if TYPE_CHECKING:
    from penstock.models.catalogue.models_file import Entry
    from penstock.models.spec import Task
    from penstock.settings import Settings


def choose(
    name: str,
    config: dict[str, Any],
    low_bit: str | None,
    entry: Entry,
    settings: Settings,
    *,
    device: str,
    task: Task,
) -> tuple[str, str | None]:
    """Return a model's backend and format, as the models file asks or as is fastest.

    :raises BadSettings: the models file asks for what the backend or the folder does not have.
    """
    backend = backend_of(name, config, low_bit, entry)
    on_cpu = device == "cpu"
    if backend == "transformers" and on_cpu and computes_as_published(config, entry, task):
        backend = "native"
    held_as = format_of(backend, low_bit, entry)
    if backend == "transformers" and on_cpu and task == "generate":
        stored = native_stored(config, entry)
        return ("native", stored) if stored else (backend, held_as)
    if backend == "bigdl" and on_cpu:
        backend = faster_than_bigdl(config, low_bit, entry, settings) or backend
    return backend, held_as


def backend_of(name: str, config: dict[str, Any], low_bit: str | None, entry: Entry) -> str:
    """Return the name of the model's backend.

    The rules are those of bigdl-llm's FastChat adapter: by the model's name; ChatGLM always in 4
    bit, and likewise a folder that `save_low_bit` wrote. The models file takes precedence.

    :raises BadSettings: the models file names a backend that cannot read the folder.
    """
    if low_bit is not None:
        if entry.backend == "transformers":
            raise BadSettings(
                f"{entry.where}: backend = 'transformers': the folder was written by "
                f"bigdl-llm's save_low_bit; 'bigdl', 'openvino' and 'native' read it"
            )
        return entry.backend or "bigdl"
    if entry.backend is not None:
        return entry.backend
    if entry.format is not None:
        return "bigdl" if entry.format in BIGDL_FORMATS else "transformers"
    if "bigdl" in name.lower() or is_chatglm(config):
        return "bigdl"
    return "transformers"


def computes_as_published(config: dict[str, Any], entry: Entry, task: Task) -> bool:
    """Return whether to compute with a checkpoint's own codes, because nothing else was requested."""
    chosen = entry.backend or entry.format or entry.dtype
    return task == "generate" and chosen is None and suitability.computes_published(config)


def native_stored(config: dict[str, Any], entry: Entry) -> str | None:
    """Return the format in which the native kernels hold a model that is not in low bit; None: they do not.

    Their keys and values are in 16 bit: with `fp32` asked for, the model is Transformers' own. So is
    one whose images only Transformers' layers read, unless its images are turned off.
    """
    stated = entry.format or entry.dtype
    if entry.images and config.get("model_type") in IMAGES_BY_MODULE:
        return None
    if entry.backend is not None or stated == "fp32" or not suitability.computes_stored(config):
        return None
    return stated or stored_format(config)


def faster_than_bigdl(
    config: dict[str, Any], low_bit: str | None, entry: Entry, settings: Settings
) -> str | None:
    """Return a backend that computes bigdl-llm's own blocks on a CPU, but faster; None if none does.

    Only if nothing was chosen explicitly, in the one format that all of them have, and for a model
    that it supports.
    """
    setting = settings.bigdl_backend
    weight_format = entry.format or low_bit or DEFAULT_LOW_BIT
    chosen = entry.backend is not None or entry.dtype is not None
    if setting == "bigdl" or chosen or weight_format != DEFAULT_LOW_BIT:
        return None
    return suitability.fastest(config, setting)


def format_of(backend: str, low_bit: str | None, entry: Entry) -> str | None:
    """Return the format of the weights; None for the checkpoint's own.

    :raises BadSettings: the entry asks for a format that the backend or folder does not have.
    """
    stated = entry.format
    if low_bit is not None and stated not in (None, low_bit):
        raise BadSettings(f"{entry.where}: format = {stated!r}: the folder holds {low_bit!r}")
    if backend == "bigdl":
        if entry.dtype is not None:
            raise BadSettings(
                f"{entry.where}: dtype: bigdl-llm computes in fp32; use format for its weights"
            )
        chosen = stated or low_bit or DEFAULT_LOW_BIT
        if chosen not in BIGDL_FORMATS:
            raise BadSettings(
                f"{entry.where}: format = {chosen!r}: bigdl holds {', '.join(BIGDL_FORMATS)}"
            )
        return chosen
    if backend == "transformers":
        if stated is not None and stated not in TRANSFORMERS_FORMATS:
            raise BadSettings(
                f"{entry.where}: format = {stated!r}: "
                f"transformers holds {', '.join(TRANSFORMERS_FORMATS)}"
            )
        if stated is not None and entry.dtype not in (None, stated):
            raise BadSettings(f"{entry.where}: dtype = {entry.dtype!r} and format = {stated!r}")
        return stated or entry.dtype
    return stated or low_bit


def check_parallel(queue: str, backend: str, device: str, task: Task) -> None:
    """Check that a model can be spread over several devices.

    :raises BadSettings: it cannot.
    """
    why = None
    if task != "generate":
        why = "only a model that generates text"
    elif backend not in ("transformers", "bigdl"):
        why = f"the {backend} backend holds a model in one process; only transformers' and bigdl's"
    elif backend == "bigdl" and device == "cpu":
        why = "bigdl-llm's CPU kernels hold a model in one process; only a model on GPUs"
    if why:
        raise BadSettings(f"queue {queue!r}: tensor parallel: {why} can be held by several")


def kv_cache_type_of(
    queue: str, backend: str, entry: Entry, settings: Settings
) -> Literal["u8"] | None:
    """Return the type of the KV cache's elements; None for the backend's own.

    :raises BadSettings: the entry asks for a type that its backend does not have.
    """
    kv_type = entry.kv_cache_type or settings.kv_cache_type
    if kv_type == "auto":
        return None
    if backend in {"openvino", "native"}:
        return kv_type
    if entry.kv_cache_type is not None:
        raise BadSettings(
            f"{entry.where}: kv_cache_type = {kv_type!r}: only native and openvino have it, "
            f"{queue!r} is served by {backend}"
        )
    return None
