"""Translates a model worker's flags to a queue, an entry of a models file and an environment."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import BadSettings, ModelNotFound
from penstock.models import spec
from penstock.models.catalogue import model_folder
from penstock.models.text import fastchat_templates
from penstock.serving.flags import DTYPES, IGNORED, REFUSED, given

if TYPE_CHECKING:
    import argparse

    from penstock.settings import Settings

STATE: Final = Path(".penstock/serving")
DEVICES: Final = ("cpu", "xpu", "cuda")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Plan:
    """What to start: a worker on `queue` and, if `controller` is set, an API that registers there."""

    queue: str
    models_file: Path
    entry: str
    environment: dict[str, str]
    slots: int | None
    debug: bool
    host: str
    port: int
    controller: str
    address: str
    warnings: tuple[str, ...]


def plan(arguments: argparse.Namespace, settings: Settings) -> Plan:
    """Return what the flags ask for; nothing is written or started.

    :raises BadSettings: a flag that cannot be honoured.
    :raises ModelNotFound: there is no such folder.
    """
    _check(arguments)
    warnings = [f"{flag}: {why}" for flag, why in IGNORED.items() if given(arguments, flag)]
    if arguments.device == "cpu" and (arguments.num_gpus > 1 or arguments.gpus):
        warnings.append("--num-gpus, --gpus: the model runs on the CPU")
    path = folder(arguments.model_path, arguments.revision, settings)
    first, *others = arguments.model_names or (_name(arguments.model_path),)
    name = _UNFIT.sub("-", first).strip("-._") or "model"
    aliases = [*others, *([first] if name != first else [])]
    queue = f"{name}-{arguments.device}{_index(arguments)}"
    register = bool(arguments.controller_address) and not arguments.no_register
    return Plan(
        queue=queue,
        models_file=STATE / f"{queue}.toml",
        entry=_entry(arguments, name, path, aliases),
        environment={"PENSTOCK_TRUST_REMOTE_CODE": "true"} if arguments.trust_remote_code else {},
        slots=arguments.limit_worker_concurrency,
        debug=arguments.debug,
        host=arguments.host,
        port=arguments.port,
        controller=arguments.controller_address if register else "",
        address=arguments.worker_address or f"http://{arguments.host}:{arguments.port}",
        warnings=tuple(warnings),
    )


def _check(arguments: argparse.Namespace) -> None:
    refused = [f"{flag}: {why}" for flag, why in REFUSED.items() if given(arguments, flag)]
    if refused:
        raise BadSettings(refused[0])
    if arguments.device not in DEVICES:
        raise BadSettings(f"--device {arguments.device}: Penstock runs on {', '.join(DEVICES)}")
    if arguments.num_gpus < 1:
        raise BadSettings("--num-gpus must be 1 or more")


def _name(model_path: str) -> str:
    return model_path.rstrip("/").rsplit("/", 1)[-1]


def folder(model_path: str, revision: str | None, settings: Settings) -> Path:
    """Return a model's folder: the path itself, in the models folder, or in Hugging Face's cache.

    :raises ModelNotFound: it is in none of them.
    """
    candidates = (Path(model_path), settings.models_dir / model_path)
    candidates += (settings.models_dir / _name(model_path),)
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model_path):
        hub: Any = importlib.import_module("huggingface_hub")
        try:
            return Path(hub.snapshot_download(model_path, revision=revision, local_files_only=True))
        except (OSError, ValueError):  # not in the cache
            pass
    raise ModelNotFound(
        f"--model-path {model_path}: no model in {', '.join(str(folder_) for folder_ in candidates)} or in "
        f"Hugging Face's cache; download it there first"
    )


def _index(arguments: argparse.Namespace) -> str:
    """Return the GPUs' part of the queue's name: `.1`, or `.0-1` for one model on several."""
    if not arguments.gpus or arguments.device == "cpu":
        return ""
    numbers = arguments.gpus.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise BadSettings(f"--gpus {arguments.gpus}: give GPUs' numbers, such as 0,1")
    if len(numbers) < arguments.num_gpus:
        raise BadSettings(f"--num-gpus {arguments.num_gpus}: --gpus names {len(numbers)}")
    first, *others = (int(number) for number in numbers[: arguments.num_gpus])
    if others != list(range(first + 1, first + arguments.num_gpus)):
        raise BadSettings(f"--gpus {arguments.gpus}: their numbers must follow each other")
    return f".{first}-{others[-1]}" if others else f".{first}"


def _entry(arguments: argparse.Namespace, name: str, path: Path, aliases: list[str]) -> str:
    """Return the models file's table. The rules for bigdl-llm and ChatGLM are `spec`'s."""
    fields: dict[str, Any] = {"path": str(path)}
    if aliases:
        fields["aliases"] = aliases
    if low_bit := _format(arguments, path, name):
        fields["format"] = low_bit
    if arguments.trust_remote_code:
        fields["trust_remote_code"] = True
    if arguments.num_gpus > 1 and arguments.device != "cpu":
        fields["tensor_parallel"] = arguments.num_gpus
    if arguments.speculative:
        fields["speculation"] = "on"
    if arguments.conv_template:
        template = fastchat_templates.jinja(arguments.conv_template)
        fields["chat_template"] = template.jinja
        if template.stop:
            fields["generation_defaults"] = {"stop": list(template.stop)}
    lines = [f"[models.{json.dumps(name)}]"]
    lines += [f"{key} = {_toml(value)}" for key, value in fields.items()]
    return "\n".join(lines) + "\n"


def _format(arguments: argparse.Namespace, path: Path, name: str) -> str | None:
    if arguments.load_low_bit_model and not model_folder.is_low_bit_folder(path):
        raise BadSettings(f"--load-low-bit-model: {path} was not written by save_low_bit")
    chosen = {
        flag: value
        for flag, value in (
            ("--low-bit", arguments.low_bit),
            ("--load-8bit", "sym_int8" if arguments.load_8bit else None),
            ("--dtype", DTYPES.get(arguments.dtype or "")),
        )
        if value
    }
    if len(set(chosen.values())) > 1:
        raise BadSettings(f"{' and '.join(chosen)} exclude each other")
    if chosen:
        return next(iter(chosen.values()))
    named = "bigdl" in _name(arguments.model_path).lower() and "bigdl" not in name.lower()
    return spec.DEFAULT_LOW_BIT if named and not model_folder.is_low_bit_folder(path) else None


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in inner.items()) + "}"
    return json.dumps(value)  # strings, lists of them, numbers and booleans look the same in TOML
