"""A checkpoint's processor as Transformers has it, for pictures alone and by Pillow.

Transformers' processors also bring one for videos, which needs torchvision; so they are made
without it. Some name torchvision as a need of their own where only their faster way of resizing
has it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading.libraries import transformers_module

if TYPE_CHECKING:
    from pathlib import Path

_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def is_there(path: Path) -> bool:
    """Whether a folder has a processor's files."""
    return any((path / name).is_file() for name in _FILES[:2])


def load(path: Path) -> Any:
    """Return the processor of a folder.

    :raises ValueError: it has none, or one of an unknown class.
    :raises ImportError: it needs a package that is not installed.
    """
    model_type = str(read_config(path).get("model_type"))
    names = transformers_module("models.auto.processing_auto").PROCESSOR_MAPPING_NAMES
    stated = [read_config(path, file).get("processor_class") for file in _FILES]
    name = next((one for one in stated if isinstance(one, str)), names.get(model_type))
    owner = next((kind for kind, own in names.items() if own == name), None)
    if name is None or owner is None:
        raise ValueError(f"a processor of an unknown class: {name}")
    kind: Any = _without_video(_class_of(owner, name))
    processor = kind.from_pretrained(path, local_files_only=True, backend="pil")
    if getattr(processor, "image_token", None) is None:
        raise ValueError(f"{name} has no image token")
    return processor


def _class_of(model_type: str, name: str) -> Any:
    """A processor's class, from the module of its model type or of one that shares it."""
    to_module = transformers_module("models.auto.configuration_auto").model_type_to_module_name
    module = to_module(model_type)
    for candidate in (module, name.removesuffix("Processor").lower()):
        try:
            own = importlib.import_module(f"transformers.models.{candidate}.processing_{candidate}")
        except ModuleNotFoundError:
            continue
        if hasattr(own, name):
            return getattr(own, name)
    return getattr(importlib.import_module("transformers"), name)


def _without_video(kind: Any) -> Any:
    """A subclass that is given None for its processor of videos."""
    parts = list(kind.get_attributes())
    own = [part for part in parts if "video" not in part]

    class WithoutVideo(kind):  # type: ignore[misc] - known at run time only
        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(own)

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **options: Any) -> list[Any]:
            loaded: list[Any] = super()._get_arguments_from_pretrained(*args, **options)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - known at run time only
            return [*loaded, *[None] * (len(parts) - len(own))]

    WithoutVideo.__name__ = kind.__name__
    return WithoutVideo
