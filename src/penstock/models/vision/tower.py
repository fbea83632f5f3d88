"""The part of a checkpoint that reads images: its processor and its vision tower.

Both are Transformers' own. The language model that the tower was published with is cut to one
layer for the load and dropped after it: the decoder that serves the text is loaded apart, by the
backend's own way.
"""

from __future__ import annotations

import copy
import inspect
import logging
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock import image_bytes
from penstock.errors import InvalidParameter, first_line
from penstock.models import devices
from penstock.models.catalogue.model_folder import read_config
from penstock.models.catalogue.text_part import MUTUAL, TAKE_IMAGES
from penstock.models.loading import checkpoint, image_text
from penstock.models.loading.libraries import transformers
from penstock.models.vision import processors

if TYPE_CHECKING:
    from penstock.models.spec import ModelSpec

logger = logging.getLogger(__name__)

KEPT_BYTES: Final = 256 * 1024 * 1024
"""Embeddings of the images that were read last, for conversations that send them again."""

_PER_LAYER: Final = ("layer_types", "no_rope_layers", "mlp_layer_types", "moe_layers")


@dataclass(frozen=True, slots=True)
class ReadImage:
    """What a model takes for an image.

    `text` stands in the prompt for it, with as many of the model's image tokens as `features` has
    rows, (tokens, hidden). `layer_features` are of the same shape, one a decoder layer. `grid` is
    (time, height, width) in patches, for multimodal rotary embeddings. The tokens of a `mutual`
    image see each other.
    """

    digest: bytes
    text: str
    features: torch.Tensor
    layer_features: tuple[torch.Tensor, ...]
    grid: torch.Tensor | None
    mutual: bool = False

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return sum(one.nbytes for one in (self.features, *self.layer_features))


class VisionTower:
    """Reads images; safe from several threads, one image at a time."""

    def __init__(self, module: Any, processor: Any) -> None:
        self._module = module
        self._processor = processor
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, ReadImage] = OrderedDict()
        self._kept_bytes = 0
        known = inspect.signature(module.get_image_features).parameters
        self._takes = frozenset(known) - {"kwargs"}
        self.mutual = _is_mutual(module.config)
        """Whether the tokens of an image see each other."""
        self.image_token = str(processor.image_token)
        """The marker that a chat template writes for an image."""
        self.image_token_id = _token_id(processor, module.config)

    @property
    def rotary(self) -> Any | None:
        """The language model's rotary embedding, if it turns tokens by three positions."""
        rotary = getattr(_body(self._module), "rotary_emb", None)
        return rotary if hasattr(rotary, "mrope_section") else None

    def read(self, data: bytes) -> ReadImage:
        """Return what the model takes for an image.

        :raises InvalidParameter: it is damaged, or the processor refuses it.
        """
        digest = blake2b(data, digest_size=16).digest()
        with self._lock:
            known = self._kept.get(digest)
            if known is None:
                known = self._read(data, digest)
                self._keep(known)
            self._kept.move_to_end(digest)
            return known

    def turns(self, token_ids: list[int], images: list[ReadImage]) -> torch.Tensor | None:
        """Return each token's time, height and width, (3, tokens); None if positions are plain."""
        if self.rotary is None:
            return None
        ids = torch.tensor([token_ids])
        grids = torch.cat([image.grid for image in images if image.grid is not None])
        positions, _ = self._module.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=(ids == self.image_token_id).int(),
            image_grid_thw=grids,
        )
        return positions[:, 0].long()

    @torch.inference_mode()
    def _read(self, data: bytes, digest: bytes) -> ReadImage:
        image = image_bytes.decode(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inputs = self._processor(
                    text=[self.image_token],
                    images=[image],
                    return_tensors="pt",
                    return_text_replacement_offsets=True,
                )
        except (ValueError, LookupError, ArithmeticError) as error:  # too narrow, too flat
            raise InvalidParameter(
                f"an image cannot be read: {first_line(error)}", param="messages"
            ) from error
        (replaced,) = inputs["text_replacement_offsets"][0]
        kind = next(self._module.parameters()).dtype
        given = {
            name: value.to(kind) if value.is_floating_point() else value
            for name, value in inputs.items()
            if name in self._takes and isinstance(value, torch.Tensor)
        }
        output = self._module.get_image_features(**given, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or ()
        return ReadImage(
            digest=digest,
            text=str(replaced["replacement"]),
            features=_rows(output.pooler_output),
            layer_features=tuple(_rows(one) for one in layers),
            grid=inputs.get("image_grid_thw"),
            mutual=self.mutual,
        )

    def _keep(self, image: ReadImage) -> None:
        self._kept[image.digest] = image
        self._kept_bytes += image.bytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.bytes


def takes_images(spec: ModelSpec) -> bool:
    """Whether a checkpoint has a vision part that is to be loaded."""
    return _config(spec) is not None


def _config(spec: ModelSpec) -> Any | None:
    """The configuration of a checkpoint with a vision part that is to be loaded, else None."""
    if not spec.images or not processors.is_there(spec.path):
        return None
    if read_config(spec.path).get("model_type") not in TAKE_IMAGES:
        return None
    config = checkpoint.full_config(spec)
    return config if image_text.is_image_text(config) else None


def load(spec: ModelSpec) -> VisionTower | None:
    """Return the vision part of a checkpoint; None, with a line in the log, if it has none.

    A checkpoint whose vision part cannot be loaded serves text.
    """
    try:
        config = _config(spec)
        if config is None:
            _report_others(spec)
            return None
        stored = checkpoint.dtype(spec, config)
        dtype = devices.device_of(spec).compute_dtype(stored, 0)
        return _loaded(spec, config, dtype)
    except Exception as error:  # noqa: BLE001 - whatever a foreign architecture raises, text is served
        logger.warning("%s: images are not taken: %s", spec.queue, first_line(error))
        return None


def _report_others(spec: ModelSpec) -> None:
    """Write a line about a checkpoint that takes images, of a type whose images are not served."""
    kind = read_config(spec.path).get("model_type")
    if not spec.images or kind in TAKE_IMAGES or not processors.is_there(spec.path):
        return
    if image_text.is_image_text(checkpoint.full_config(spec)):
        logger.warning(
            "%s: images are not taken: checkpoints of type %s serve text", spec.queue, kind
        )


def _loaded(spec: ModelSpec, config: Any, dtype: torch.dtype) -> VisionTower:
    library = transformers()
    processor = processors.load(spec.path)
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers = 1
    for name in _PER_LAYER:
        each: Any = getattr(text, name, None)
        if isinstance(each, list):
            setattr(text, name, each[:1])
    whole, _ = checkpoint.from_folder(
        library.AutoModelForImageTextToText, spec, spec.path, small, dtype
    )
    module = whole.model.eval()
    body = _body(module)
    for name in ("layers", "embed_tokens", "norm"):
        setattr(body, name, torch.nn.Module())
    return VisionTower(module, processor)


def _body(module: Any) -> Any:
    """The language model within a module."""
    return next(
        part for name in ("language_model", "text_model") if (part := getattr(module, name, None))
    )


def _is_mutual(config: Any) -> bool:
    """Whether a model's attention lets the tokens of an image see each other."""
    if config.model_type in MUTUAL:
        return True
    stated = getattr(config.get_text_config(), "use_bidirectional_attention", None)
    return stated == "vision"


def _token_id(processor: Any, config: Any) -> int:
    for owner, name in (
        (config, "image_token_id"),
        (config, "image_token_index"),
        (processor, "image_token_id"),
    ):
        number = getattr(owner, name, None)
        if isinstance(number, int):
            return number
    raise ValueError("the id of the image token is not known")


def _rows(features: Any) -> torch.Tensor:
    """Features of one image as (tokens, hidden), float32."""
    parts: list[Any] = [*features] if isinstance(features, list | tuple) else [features]
    rows: list[torch.Tensor] = [part.reshape(-1, part.shape[-1]) for part in parts]
    return torch.cat(rows).float()
