"""The part of a checkpoint that reads images: its processor and its vision tower."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock import image_bytes
from penstock.errors import InvalidParameter, first_line
from penstock.models.vision.batches import MOST_VALUES, batches, joined, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.engine.model import Mutual
    from penstock.models.vision.prepared import ImageReader, PreparedImage

KEPT_BYTES: Final = 256 * 1024 * 1024
"""Embeddings of the images that were read last, for conversations that send them again."""
_GRIDS: Final = ("image_grid_thw", "target_sizes")
"""The names by which models call the sizes of an image in patches."""


@dataclass(frozen=True, slots=True)
class ReadImage:
    """What a model takes for an image.

    `label` and `text` stand in the prompt for it (`PreparedImage`), with as many of the model's
    image tokens as `features` has rows, (tokens, hidden). `layer_features` are of the same shape,
    one a decoder layer. `grid` are sizes in patches, for multimodal rotary embeddings: (1, 3) time,
    height and width, or (pieces, 2) height and width. The tokens of a `mutual` image see each other.
    """

    digest: bytes
    text: str
    label: str
    features: torch.Tensor
    layer_features: tuple[torch.Tensor, ...]
    grid: torch.Tensor | None
    mutual: bool = False

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return sum(one.nbytes for one in (self.features, *self.layer_features))


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A prepared image that the tower has yet to read, and where the result goes."""

    digest: bytes
    prepared: PreparedImage
    result: Future[ReadImage]


class VisionTower:
    """Reads images; safe from several threads.

    A thread that gets the tower reads with it all that other threads have prepared meanwhile:
    images of one shape are one forward.
    """

    def __init__(
        self,
        module: Any,
        reader: ImageReader,
        *,
        image_token_id: int,
        text_token_id: int | None = None,
        mutual: Mutual,
        most_values: int = MOST_VALUES,
    ) -> None:
        """Take a module with `get_image_features`, and what prepares its images.

        `most_values` bounds the pixel values of one forward; an image of more is read alone.
        """
        self._module = module
        self._reader = reader
        self._most_values = most_values
        known = inspect.signature(module.get_image_features).parameters
        self._takes = frozenset(known) - {"kwargs"}
        self._preparing = threading.Lock()  # processors are not known to be safe
        self._computing = threading.Lock()
        self._state = threading.Lock()  # of all that follows
        self._kept: OrderedDict[bytes, ReadImage] = OrderedDict()
        self._kept_bytes = 0
        self._begun: dict[bytes, Future[ReadImage]] = {}
        self._waiting: list[_Waiting] = []
        self.mutual = mutual
        """Where the tokens of an image see each other."""
        self.image_token = reader.image_token
        """The marker that a chat template writes for an image."""
        self.image_token_id = image_token_id
        self.text_token_id = text_token_id
        """What an image's tokens are to a decoder that looks up inputs of each layer; most do not."""

    @property
    def rotary(self) -> Any | None:
        """The language model's rotary embedding, if it turns tokens by three positions."""
        if not hasattr(self._module, "get_rope_index"):
            return None
        rotary = getattr(language_model(self._module), "rotary_emb", None)
        return rotary if hasattr(rotary, "mrope_section") else None

    def read(self, images: Sequence[bytes]) -> list[ReadImage]:
        """Return what the model takes for images.

        :raises InvalidParameter: one is damaged, or the processor refuses it.
        """
        digests = [blake2b(data, digest_size=16).digest() for data in images]
        results: list[ReadImage | Future[ReadImage]] = []
        own: list[tuple[bytes, bytes, Future[ReadImage]]] = []
        with self._state:
            for digest, data in zip(digests, images, strict=True):
                known = self._kept.get(digest) or self._begun.get(digest)
                if known is None:
                    known = self._begun[digest] = Future()
                    own.append((digest, data, known))
                elif digest in self._kept:
                    self._kept.move_to_end(digest)
                results.append(known)
        self._read_own(own)
        return [one.result() if isinstance(one, Future) else one for one in results]

    def turns(self, token_ids: list[int], images: list[ReadImage]) -> torch.Tensor | None:
        """Return each token's time, height and width, (3, tokens); None if positions are plain."""
        if self.rotary is None:
            return None
        ids = torch.tensor([token_ids])
        grids = torch.cat([image.grid for image in images if image.grid is not None])
        known: Mapping[str, Any] = inspect.signature(self._module.get_rope_index).parameters
        positions, _ = self._module.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=(ids == self.image_token_id).int(),
            **{next(name for name in _GRIDS if name in known): grids},
        )
        return positions[:, 0].long()

    def _read_own(self, own: Sequence[tuple[bytes, bytes, Future[ReadImage]]]) -> None:
        """Give each of a thread's new images its result, or its error."""
        try:
            for digest, data, result in own:
                try:
                    with self._preparing:
                        prepared = self._prepared(data)
                except Exception as error:  # noqa: BLE001 - it is raised by who wants the image
                    self._end(digest, result, error)
                    continue
                with self._state:
                    self._waiting.append(_Waiting(digest, prepared, result))
                    waiting = sum(values(one.prepared) for one in self._waiting)
                if waiting >= self._most_values:
                    self._compute()
            if any(not result.done() for _, _, result in own):
                self._compute()
        finally:  # whatever happened, no thread waits for ever
            for digest, _, result in own:
                if not result.done():
                    self._end(digest, result, RuntimeError("the vision tower was interrupted"))

    def _prepared(self, data: bytes) -> PreparedImage:
        """:raises InvalidParameter: it is damaged, or the processor refuses it."""
        image = image_bytes.decode(data)
        try:
            prepared = self._reader.prepare(image)
        except (ValueError, LookupError, ArithmeticError) as error:  # too narrow, too flat
            raise InvalidParameter(
                f"an image cannot be read: {first_line(error)}", param="messages"
            ) from error
        inputs = {name: one for name, one in prepared.inputs.items() if name in self._takes}
        return replace(prepared, inputs=inputs)

    def _compute(self) -> None:
        """Read all that is waiting, once no other thread does."""
        with self._computing:
            with self._state:
                waiting, self._waiting = self._waiting, []
            for numbers in batches([one.prepared for one in waiting], self._most_values):
                self._compute_group([waiting[number] for number in numbers])

    def _compute_group(self, group: Sequence[_Waiting]) -> None:
        try:
            images = self._forward(group)
        except Exception as error:  # noqa: BLE001 - it is raised by who wants the images
            for one in group:
                self._end(one.digest, one.result, error)
            return
        for one, image in zip(group, images, strict=True):
            self._end(one.digest, one.result, image)

    @torch.inference_mode()
    def _forward(self, group: Sequence[_Waiting]) -> list[ReadImage]:
        """Return what the model takes for images of one shape.

        :raises RuntimeError: it gives another number of embeddings than there are image tokens.
        """
        weight = next(self._module.parameters())
        inputs = joined([one.prepared for one in group])
        given = {
            name: value.to(weight if value.is_floating_point() else weight.device)
            for name, value in inputs.items()
        }
        output = self._module.get_image_features(**given, return_dict=True)
        counts = [one.prepared.tokens for one in group]
        features = _by_image(self._embeddings(output), counts)
        deeper = [
            _by_image(one, counts) for one in getattr(output, "deepstack_features", None) or ()
        ]
        return [
            ReadImage(
                digest=one.digest,
                text=one.prepared.text,
                label=one.prepared.label,
                features=features[number],
                layer_features=tuple(layer[number] for layer in deeper),
                grid=next(
                    (
                        grid
                        for name in _GRIDS
                        if (grid := one.prepared.inputs.get(name)) is not None
                    ),
                    None,
                ),
                mutual=self.mutual.somewhere,
            )
            for number, one in enumerate(group)
        ]

    def _embeddings(self, output: Any) -> Any:
        """What stands in the place of tokens: some models project it after the tower."""
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled
        return self._module.multi_modal_projector(output.last_hidden_state.flatten(0, 1))

    def _end(
        self, digest: bytes, result: Future[ReadImage], outcome: ReadImage | Exception
    ) -> None:
        """Set an image's result, and keep it for conversations that send it again."""
        with self._state:
            self._begun.pop(digest, None)
            if isinstance(outcome, ReadImage):
                self._kept[digest] = outcome
                self._kept_bytes += outcome.bytes
                while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                    _, oldest = self._kept.popitem(last=False)
                    self._kept_bytes -= oldest.bytes
        if result.done():
            return
        if isinstance(outcome, ReadImage):
            result.set_result(outcome)
        else:
            result.set_exception(outcome)


def language_model(module: Any) -> Any:
    """Return the language model within a module."""
    body = next(
        part for name in ("language_model", "text_model") if (part := getattr(module, name, None))
    )
    return getattr(body, "model", body)


def _by_image(features: Any, counts: Sequence[int]) -> list[torch.Tensor]:
    """Split features, in the order of their images, into (tokens, hidden) float32 of each, on the CPU.

    :raises RuntimeError: there are more or fewer than the images have tokens.
    """
    parts: list[Any] = [*features] if isinstance(features, list | tuple) else [features]
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).float().cpu()
    if len(rows) != sum(counts):
        raise RuntimeError(f"{len(rows)} embeddings for {sum(counts)} tokens of images")
    # Each with memory of its own: they are dropped one by one.
    split: list[torch.Tensor] = [*rows.split(list(counts))]  # pyright: ignore[reportUnknownMemberType] - torch's own
    return [part.clone() for part in split]
