"""A chat with images as the engine takes it: token ids, and what stands at the images' tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.engine.image_inputs import ImageInputs, ImageSpan
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.job import ChatPrompt
    from penstock.models.text.tokenizer import Tokenizer
    from penstock.models.vision.tower import ReadImage, VisionTower

PARAM: Final = "messages"


@dataclass(frozen=True, slots=True)
class Vision:
    """A model's way of reading chats with images. Any thread."""

    tokenizer: Tokenizer
    tower: VisionTower

    def __call__(
        self, prompt: ChatPrompt, images: Sequence[bytes]
    ) -> tuple[list[int], ImageInputs]:
        """Return a chat's token ids and its images, given in the order of its messages.

        :raises InvalidParameter: an image is damaged, or the template does not write all of them.
        :raises ContextOverflow: the prompt is too long.
        """
        tower = self.tower
        read = [tower.read(image) for image in images]

        def expanded(text: str) -> str:
            pieces = text.split(tower.image_token)
            if len(pieces) != len(read) + 1:
                raise InvalidParameter(
                    f"the model's chat template writes {len(pieces) - 1} images of {len(read)}",
                    param=PARAM,
                )
            between = [*(image.text for image in read), ""]
            return "".join(piece + image for piece, image in zip(pieces, between, strict=True))

        token_ids = self.tokenizer.encode_chat(prompt, expanded)
        spans = _spans(token_ids, read, tower.image_token_id)
        return token_ids, ImageInputs(tuple(spans), tower.turns(token_ids, read))


def _spans(token_ids: list[int], images: list[ReadImage], image_token_id: int) -> list[ImageSpan]:
    """Return the runs of the images' tokens.

    :raises InvalidParameter: there are more or fewer than the images have embeddings.
    """
    positions = [place for place, token in enumerate(token_ids) if token == image_token_id]
    expected = sum(len(image.features) for image in images)
    if len(positions) != expected:
        raise InvalidParameter(
            f"the prompt has {len(positions)} image tokens for {expected} embeddings: a message "
            f"holds the model's own marker for images",
            param=PARAM,
        )
    spans: list[ImageSpan] = []
    taken = 0
    for image in images:
        own = positions[taken : taken + len(image.features)]
        taken += len(own)
        first = 0
        for index in range(1, len(own) + 1):
            if index < len(own) and own[index] == own[index - 1] + 1:
                continue
            spans.append(_span(image, own[first], first, index))
            first = index
    return spans


def _span(image: ReadImage, start: int, first: int, last: int) -> ImageSpan:
    return ImageSpan(
        start=start,
        embeddings=image.features[first:last],
        digest=image.digest + first.to_bytes(4, "little"),
        layer_features=tuple(layer[first:last] for layer in image.layer_features),
    )
