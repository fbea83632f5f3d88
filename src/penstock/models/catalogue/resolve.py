"""Finds the model that a queue's name means. Imports no torch.

A queue is `<model>-<device>`. The model is an entry of the models file, a folder of the models
directory, or the shipped demo model; `backend_choice` chooses its backend.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from penstock.errors import BadSettings, ModelNotFound
from penstock.models.catalogue import backend_choice, hub_cache
from penstock.models.catalogue.folder_check import check_files, is_folder
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.model_folder import is_eagle3, low_bit_of, read_config, task_of
from penstock.models.catalogue.models_file import DraftHeadEntry, Entry, read_models_file
from penstock.models.spec import ModelSpec

if TYPE_CHECKING:
    from penstock.models.spec import Device
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
    together = _tensor_parallel(queue, match, entry)
    task = entry.task or task_of(path)
    backend, held_as = backend_choice.choose(
        name, config, low_bit, entry, settings, device=match["device"], task=task
    )
    if together > 1:
        backend_choice.check_parallel(queue, backend, match["device"], task)
    draft, eagle3 = _drafts(name, match, entry, settings)
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
        kv_cache_type=backend_choice.kv_cache_type_of(queue, backend, entry, settings),
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
        draft=draft,
        eagle3=eagle3,
        adapters=entry.adapters,
        keep_alive_s=entry.keep_alive_s,
    )


def _drafts(
    name: str, match: re.Match[str], entry: Entry, settings: Settings
) -> tuple[ModelSpec | None, Path | None]:
    """Return the model that drafts for a model, on the same device, or the folder of a head that does.

    :raises BadSettings: it cannot.
    :raises ModelNotFound: there is none of its name, or no such folder.
    """
    stated = entry.draft
    if stated is None:
        return None, None
    folder = stated.path if isinstance(stated, DraftHeadEntry) else stated
    where = f"{entry.where}: draft = {str(folder)!r}"
    if stated == name or (match["last"] or entry.tensor_parallel or 1) != 1:
        raise BadSettings(f"{where}: a draft is another model, for one device")
    entries = read_models_file(settings.models_file)
    if isinstance(stated, DraftHeadEntry):
        if not is_folder(stated.path):
            raise ModelNotFound(f"{where}: there is no such folder")
        check_files(stated.path)
        return None, stated.path
    other, path = _find(stated, entries, settings, match[0])
    if is_eagle3(read_config(path)):
        return None, path
    if other.draft is not None:
        raise BadSettings(f"{where}: that model has a draft itself")
    device = match["device"] if match["index"] is None else f"{match['device']}.{match['index']}"
    spec = resolve(f"{stated}-{device}", settings)
    if spec.task != "generate":
        raise BadSettings(f"{where} generates no text")
    return spec, None


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
        if entry.path is None and not is_folder(path):
            path = hub_cache.snapshot(settings.models_dir, candidate) or path
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
        name = hub_cache.name_of(folder)
        if name is not None:
            cached = hub_cache.snapshot(models_dir, name)
            names.extend([name] if cached is not None and _is_model(cached) else [])
        elif _is_model(folder):
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
