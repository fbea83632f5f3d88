"""Finds the model that a queue's name means. Imports no torch.

A queue is `<model>-<device>`. The model is an entry of the models file, a folder of the models
directory, or the shipped demo model; `_backend_of` chooses its backend.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from penstock.errors import BadSettings, ModelNotFound
from penstock.models.backends import suitability
from penstock.models.catalogue.folder_check import check_files, is_folder
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.model_folder import is_chatglm, low_bit_of, read_config, task_of
from penstock.models.catalogue.models_file import (
    BIGDL_FORMATS,
    TRANSFORMERS_FORMATS,
    Entry,
    read_models_file,
)
from penstock.models.spec import DEFAULT_LOW_BIT, ModelSpec

if TYPE_CHECKING:
    from penstock.models.spec import Device, Task
    from penstock.settings import Settings

DEMO_NAME = "demo"
BIGDL_PREFIX = "bigdl-"

_CONFIG = "config.json"
_MOST_FOLDERS = 1000
LONGEST_QUEUE = 200
"""Most characters of a queue's name: it is a part of Redis keys and, without the device, a path."""

_PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
_QUEUE = re.compile(
    rf"(?P<model>{_PART}(?:/{_PART})?)-(?P<device>cpu|xpu|cuda)"
    r"(?:\.(?P<index>\d{1,3})(?:-(?P<last>\d{1,3}))?)?"
)


def resolve(queue: str, settings: Settings) -> ModelSpec:
    """Return the model that a queue's name means.

    :raises ModelNotFound: no entry, no folder, or a name that is not `<model>-<device>`.
    :raises BadSettings: the models file is not usable.
    """
    if len(queue) > LONGEST_QUEUE:
        raise ModelNotFound(
            f"queue {queue[:40]!r}...: its name has {len(queue)} characters; the limit is {LONGEST_QUEUE}"
        )
    match = _QUEUE.fullmatch(queue)
    if match is None or (match["device"] == "cpu" and match["index"] is not None):
        raise ModelNotFound(
            f"queue {queue!r}: a queue's name is <model>-<device>, device one of cpu, xpu, cuda "
            f"(xpu.1 for the second GPU, cuda.0-3 for one model over four); a model's name is made "
            f"of ASCII letters, digits, '.', '_' and '-', with one '/' at most (org/name); give any "
            f"other folder such a name in models.toml: [models.NAME], path = ..."
        )
    name = match["model"]
    entries = read_models_file(settings.models_file)
    entry, path = _find(name, entries, settings, queue)
    config = read_config(path)
    low_bit = low_bit_of(path, config)
    backend = _backend_of(name, config, low_bit, entry)
    together = _tensor_parallel(queue, match, entry)
    task = entry.task or task_of(path)
    if (
        backend == "transformers"
        and match["device"] == "cpu"
        and _as_published(config, entry, task)
    ):
        backend = "native"
    held_as = _format_of(backend, low_bit, entry)
    if backend == "bigdl" and match["device"] == "cpu":
        backend = _faster_than_bigdl(config, low_bit, entry, settings) or backend
    if together > 1:
        _check_parallel(queue, backend, match["device"], task)
    index = match["index"]
    return ModelSpec(
        name=name,
        queue=queue,
        device=cast("Device", match["device"]),
        device_index=None if index is None else int(index),
        path=path,
        backend=backend,
        task=task,
        format=held_as,
        low_bit_folder=low_bit is not None,
        context_length=entry.context_length,
        slots=entry.slots,
        kv_cache_bytes=entry.kv_cache_bytes,
        target_step_ms=entry.target_step_ms,
        speculation=entry.speculation,
        special_tokens_in_text=entry.special_tokens_in_text or settings.special_tokens_in_text,
        kv_cache_type=_kv_cache_type(queue, backend, entry, settings),
        aliases=entry.aliases,
        chat_template=entry.chat_template,
        tool_parser=entry.tool_parser,
        generation_defaults=entry.generation_defaults,
        matryoshka=entry.matryoshka,
        trust_remote_code=(
            settings.trust_remote_code
            if entry.trust_remote_code is None
            else entry.trust_remote_code
        ),
        allow_pickle=entry.allow_pickle,
        converted_dir=settings.converted_dir.expanduser() if settings.converted_bytes else None,
        converted_limit_bytes=settings.converted_bytes,
        owns_cores=bool(settings.cores),
        large_pages=settings.large_pages,
        tensor_parallel=together,
        peer_memory=entry.peer_memory,
        images=entry.images,
    )


def _tensor_parallel(queue: str, match: re.Match[str], entry: Entry) -> int:
    """Return how many devices share the model: from the queue's name, else the models file.

    :raises ModelNotFound: the range in the name is descending.
    :raises BadSettings: they contradict each other.
    """
    stated = entry.tensor_parallel
    if match["last"] is None:
        return stated or 1
    count = int(match["last"]) - int(match["index"]) + 1
    if count < 1:
        raise ModelNotFound(f"queue {queue!r}: {match['index']}-{match['last']} counts backwards")
    if stated not in (None, count):
        raise BadSettings(
            f"{entry.where}: tensor_parallel = {stated}: the queue {queue!r} names {count} devices"
        )
    return count


def _check_parallel(queue: str, backend: str, device: str, task: Task) -> None:
    """:raises BadSettings: the model cannot be spread over several devices."""
    why = None
    if task != "generate":
        why = "only a model that generates text"
    elif backend not in ("transformers", "bigdl"):
        why = f"the {backend} backend holds a model in one process; only transformers' and bigdl's"
    elif backend == "bigdl" and device == "cpu":
        why = "bigdl-llm's CPU kernels hold a model in one process; only a model on GPUs"
    if why:
        raise BadSettings(f"queue {queue!r}: tensor parallel: {why} can be held by several")


def _kv_cache_type(
    queue: str, backend: str, entry: Entry, settings: Settings
) -> Literal["u8"] | None:
    """:raises BadSettings: the entry asks for a type that its backend does not have."""
    kv_type = entry.kv_cache_type or settings.kv_cache_type
    if kv_type == "auto":
        return None
    if backend == "openvino":
        return kv_type
    if entry.kv_cache_type is not None:
        raise BadSettings(
            f"{entry.where}: kv_cache_type = {kv_type!r}: only the openvino backend has it, "
            f"{queue!r} is served by {backend}"
        )
    return None


def discover(settings: Settings, *, device: Device = "cpu") -> list[ModelSpec]:
    """Return every model that this machine could serve, sorted by name, as its queue on `device`.

    :raises BadSettings: the models file is not usable.
    """
    names = set(read_models_file(settings.models_file))
    names.update(name for name in _folders(settings.models_dir) if _QUEUE.fullmatch(f"{name}-cpu"))
    if _demo_path() is not None:
        names.update((DEMO_NAME, BIGDL_PREFIX + DEMO_NAME))
    specs: list[ModelSpec] = []
    for name in sorted(names):
        try:
            specs.append(resolve(f"{name}-{device}", settings))
        except ModelNotFound:
            continue
    return specs


def _find(
    name: str, entries: dict[str, Entry], settings: Settings, queue: str
) -> tuple[Entry, Path]:
    """Return the entry (empty for a plain folder) and the folder of a model."""
    for candidate in (name, name.removeprefix(BIGDL_PREFIX)):
        inherited = candidate != name
        entry = entries.get(candidate, Entry())
        path = entry.path or settings.models_dir / candidate
        if not is_folder(path) and entry.path is None and candidate == DEMO_NAME:
            path = _demo_path() or path
        if is_folder(path):
            check_files(path)
            return (entry.as_low_bit() if inherited else entry), path
        if candidate in entries:
            raise ModelNotFound(
                f"queue {queue!r}: {settings.models_file} [models.{candidate}]: "
                f"there is no folder {path}"
            )
    available = sorted(entries) + _folders(settings.models_dir)
    hint = f"; there are {', '.join(available[:8])}" if available else ""
    raise ModelNotFound(
        f"queue {queue!r}: no model {name!r}: neither a folder {settings.models_dir / name} "
        f"nor an entry [models.{name}] in {settings.models_file}{hint}"
    )


def _folders(models_dir: Path) -> list[str]:
    """Return the names of model folders: `name`, or `org/name` below a folder that is not one."""
    names: list[str] = []
    for folder in _subfolders(models_dir):
        if _is_model(folder):
            names.append(folder.name)
        else:
            inner = (subfolder for subfolder in _subfolders(folder) if _is_model(subfolder))
            names.extend(f"{folder.name}/{subfolder.name}" for subfolder in inner)
    return sorted(names)


def _is_model(folder: Path) -> bool:
    return (folder / _CONFIG).is_file() or bool(gguf_folder.files(folder))


def _subfolders(path: Path) -> list[Path]:
    """Return the first of a folder's subfolders, by name; none if it cannot be read."""
    try:
        return sorted(folder for folder in path.iterdir() if folder.is_dir())[:_MOST_FOLDERS]
    except OSError:
        return []


def _demo_path() -> Path | None:
    """Return the shipped model's folder; None in an installation without it."""
    try:
        demo_model = importlib.import_module("penstock.demo_model")
        path = Path(demo_model.path())
    except (ImportError, AttributeError, OSError):  # an installation without the weights
        return None
    return path if (path / "config.json").is_file() else None


def _backend_of(name: str, config: dict[str, Any], low_bit: str | None, entry: Entry) -> str:
    """Return the name of the model's backend.

    The rules are those of bigdl-llm's FastChat adapter: by the model's name; ChatGLM always in 4
    bit, and likewise a folder that `save_low_bit` wrote. The models file takes precedence.
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


def _as_published(config: dict[str, Any], entry: Entry, task: Task) -> bool:
    """Return whether to compute with a checkpoint's own codes, because nothing else was requested."""
    chosen = entry.backend or entry.format or entry.dtype
    return task == "generate" and chosen is None and suitability.computes_published(config)


def _faster_than_bigdl(
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
    kv_cache = entry.kv_cache_type or settings.kv_cache_type
    return suitability.fastest(config, setting, kv_cache=kv_cache)


def _format_of(backend: str, low_bit: str | None, entry: Entry) -> str | None:
    """:raises BadSettings: the entry asks for a format that the backend or folder does not have."""
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
