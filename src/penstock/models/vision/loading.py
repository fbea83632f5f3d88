"""Loads the part of a checkpoint that reads images.

It is Transformers' own. The language model that the tower was published with is cut to one layer
for the load and dropped after it: the decoder that serves the text is loaded apart, by the
backend's own way.
"""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.engine.model import Mutual
from penstock.errors import first_line
from penstock.models import devices
from penstock.models.catalogue.model_folder import read_config
from penstock.models.catalogue.text_part import MUTUAL, TAKE_IMAGES
from penstock.models.loading import checkpoint, image_text
from penstock.models.loading.libraries import transformers
from penstock.models.vision import processors
from penstock.models.vision.batches import MOST_VALUES
from penstock.models.vision.tower import VisionTower, language_model

if TYPE_CHECKING:
    from collections.abc import Generator

    from penstock.models.spec import ModelSpec

logger = logging.getLogger(__name__)

_LISTS: Final = ("layer_types", "no_rope_layers", "mlp_layer_types", "moe_layers")
"""Entries of a text configuration with one value a layer."""
_NONE_OF: Final = ("num_kv_shared_layers", "hidden_size_per_layer_input")
"""Those that name parts of the language model that one layer has not."""
_REASONS: Final = {
    "phi4_multimodal": "their processor needs torchvision, and its weights a LoRA adapter beside them"
}
"""Why the images of a model type are not served, where it is known."""
_ONE_BY_ONE: Final = frozenset({"pixtral", "minicpmv4_6_vision", "minicpmv4_7_vision"})
"""Towers that read each image alone.

Pixtral's attends over all images of a forward at once, by a mask of all their patches. In MiniCPM's,
as Transformers 5.24 has it, an image's features depend on its place among the others.
"""


def has_plain_images(spec: ModelSpec) -> bool:
    """Whether a decoder need only take embeddings in the place of tokens to serve a checkpoint.

    True of those that take no images at all. Others turn an image's tokens by height and width, or
    let them see each other.
    """
    config = _config(spec)
    if config is None:
        return True
    rules: Any = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return "mrope_section" not in rules and _mutual(config) is Mutual.NOWHERE


def feature_layers(spec: ModelSpec) -> int | None:
    """Return how many of a decoder's first layers add features of images, mostly none.

    None if the checkpoint has no vision part that is read here.
    """
    config = _config(spec)
    if config is None:
        return None
    return len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())


def load(spec: ModelSpec) -> VisionTower | None:
    """Return the vision part of a checkpoint; None, with a line in the log, if it has none.

    A checkpoint whose vision part cannot be loaded serves text.
    """
    try:
        config = _config(spec)
        if config is None:
            _report_others(spec)
            return None
        return _loaded(spec, config)
    except Exception as error:  # noqa: BLE001 - whatever a foreign architecture raises, text is served
        logger.warning("%s: images are not taken: %s", spec.queue, first_line(error))
        return None


def _config(spec: ModelSpec) -> Any | None:
    """The configuration of a checkpoint with a vision part that is to be loaded, else None."""
    if not spec.images or not processors.is_there(spec.path):
        return None
    if read_config(spec.path).get("model_type") not in TAKE_IMAGES:
        return None
    config = checkpoint.full_config(spec)
    return config if image_text.is_image_text(config) else None


def _report_others(spec: ModelSpec) -> None:
    """Write a line about a checkpoint that takes images, of a type whose images are not served."""
    kind = read_config(spec.path).get("model_type")
    if not spec.images or kind in TAKE_IMAGES or not processors.is_there(spec.path):
        return
    if image_text.is_image_text(checkpoint.full_config(spec)):
        reason = _REASONS.get(str(kind), f"checkpoints of type {kind} serve text")
        logger.warning("%s: images are not taken: %s", spec.queue, reason)


def _loaded(spec: ModelSpec, config: Any) -> VisionTower:
    """Return the vision part, on the device of the model."""
    library, place = transformers(), devices.device_of(spec)
    dtype = place.compute_dtype(checkpoint.dtype(spec, config), 0)
    image_token_id = _token_id(config)
    reader = processors.reader(spec.path, image_token_id)
    with _unreported():
        whole, _ = checkpoint.from_folder(
            library.AutoModelForImageTextToText, spec, spec.path, _of_one_layer(config), dtype
        )
    module = (whole.model if hasattr(whole, "model") else whole).eval()
    body = language_model(module)
    for name in ("layers", "embed_tokens", "norm"):
        setattr(body, name, torch.nn.Module())
    module = module.to(place.torch_device)
    alone = getattr(config.vision_config, "model_type", None) in _ONE_BY_ONE
    return VisionTower(
        module,
        reader,
        image_token_id=image_token_id,
        text_token_id=_text_token_id(config.get_text_config()),
        mutual=_mutual(config),
        most_values=0 if alone else MOST_VALUES,
    )


@contextmanager
def _unreported() -> Generator[None]:
    """Keep Transformers' report of weights without a place out of the log: the layers left out."""
    reports = logging.getLogger("transformers.modeling_utils")
    level = reports.level
    reports.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reports.setLevel(level)


def _of_one_layer(config: Any) -> Any:
    """Return a configuration whose language model has one layer, and which hears nothing."""
    small = copy.deepcopy(config)
    if hasattr(small, "audio_config"):
        small.audio_config = None
    text = small.get_text_config()
    text.num_hidden_layers = 1
    for name in _LISTS:
        each: Any = getattr(text, name, None)
        if isinstance(each, list):
            setattr(text, name, each[:1])
    for name in _NONE_OF:
        if getattr(text, name, None):
            setattr(text, name, 0)
    return small


def _mutual(config: Any) -> Mutual:
    """Where a model's attention lets the tokens of an image see each other."""
    if config.model_type in MUTUAL:
        return Mutual.EVERYWHERE
    stated = getattr(config.get_text_config(), "use_bidirectional_attention", None)
    return Mutual.IN_WINDOWS if stated == "vision" else Mutual.NOWHERE


def _token_id(config: Any) -> int:
    """Return the id of the token that an image's embeddings take the place of.

    :raises ValueError: it is not known.
    """
    for name in ("image_token_id", "image_token_index"):
        number = getattr(config, name, None)
        if isinstance(number, int):
            return number
    raise ValueError("the id of the image token is not known")


def _text_token_id(text: Any) -> int | None:
    """The token by whose id a decoder with inputs for each layer looks up those of an image."""
    if not getattr(text, "hidden_size_per_layer_input", None):
        return None
    return int(text.pad_token_id or 0)
