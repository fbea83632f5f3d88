"""A checkpoint's processor as Transformers has it, for pictures alone and by Pillow.

Transformers' processors also bring one for videos, which needs torchvision; so they are made
without it. Some need torchvision themselves: their checkpoints' images are read by us.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading.libraries import transformers_module
from penstock.models.vision import gemma4, llama4, minicpm, pixtral
from penstock.models.vision.prepared import PreparedImage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image

    from penstock.models.vision.prepared import ImageReader

_OWN: Final[dict[str, Callable[[Path], ImageReader]]] = {
    gemma4.PROCESSOR: gemma4.Gemma4Reader,
    llama4.PROCESSOR: llama4.Llama4Reader,
    **dict.fromkeys(minicpm.PROCESSORS, minicpm.MiniCPMReader),
    pixtral.PROCESSOR: pixtral.PixtralReader,
}
"""Readers of our own, by the class of Transformers' processor that they take the place of."""
_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def is_there(path: Path) -> bool:
    """Whether a folder has a processor's files."""
    return any((path / name).is_file() for name in _FILES[:2])


def reader(path: Path, image_token_id: int) -> ImageReader:
    """Return what prepares the images of a folder's model.

    :raises ValueError: it has no processor, or one of an unknown class.
    :raises ImportError: it needs a package that is not installed.
    """
    own = _OWN.get(_class_name(path) or "")
    return TransformersReader(load(path), image_token_id) if own is None else own(path)


class TransformersReader:
    """A processor of Transformers. See `penstock.models.vision.prepared.ImageReader`."""

    def __init__(self, processor: Any, image_token_id: int) -> None:
        self._processor = processor
        self._image_token_id = image_token_id
        self.image_token = str(processor.image_token)

    def prepare(self, image: Image) -> PreparedImage:
        """See `penstock.models.vision.prepared.ImageReader`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = self._processor(
                text=[self.image_token],
                images=[image],
                return_tensors="pt",
                return_text_replacement_offsets=True,
            )
        (replaced,) = made["text_replacement_offsets"][0]
        return PreparedImage(
            text=str(replaced["replacement"]),
            tokens=int((made["input_ids"] == self._image_token_id).sum()),
            inputs={name: one for name, one in made.items() if isinstance(one, torch.Tensor)},
        )


def _class_name(path: Path) -> str | None:
    """Return the class that a folder names for its processor, or else its model type's."""
    names = transformers_module("models.auto.processing_auto").PROCESSOR_MAPPING_NAMES
    stated = [read_config(path, file).get("processor_class") for file in _FILES]
    of_type = names.get(str(read_config(path).get("model_type")))
    return next((one for one in stated if isinstance(one, str)), of_type)


def load(path: Path) -> Any:
    """Return the processor of a folder.

    :raises ValueError: it has none, or one of an unknown class.
    :raises ImportError: it needs a package that is not installed.
    """
    names = transformers_module("models.auto.processing_auto").PROCESSOR_MAPPING_NAMES
    name = _class_name(path)
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
