"""A prompt with images as the engine takes it: token ids, and what stands at the images' tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.contract.job import IMAGE_PLACE, ChatPrompt, TextPrompt
from penstock.engine.image_inputs import ImageInputs, ImageSpan
from penstock.errors import InvalidParameter
from penstock.models.vision.prepared import NUMBER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.text.tokenizer import Tokenizer
    from penstock.models.vision.tower import ReadImage, VisionTower

PARAM: Final = "messages"


@dataclass(frozen=True, slots=True)
class Vision:
    """A model's way of reading prompts with images. Any thread."""

    tokenizer: Tokenizer
    tower: VisionTower

    def __call__(
        self, prompt: ChatPrompt | TextPrompt, images: Sequence[bytes]
    ) -> tuple[list[int], ImageInputs]:
        """Return a prompt's token ids and its images, given in their order in the prompt.

        :raises InvalidParameter: an image is damaged, or the prompt's text has not a place for each.
        :raises ContextOverflow: the prompt is too long.
        """
        tower = self.tower
        read = tower.read(images)
        if isinstance(prompt, TextPrompt):
            text = _expanded(prompt.text, IMAGE_PLACE, read, "the prompt has a place for")
            token_ids = self.tokenizer.encode(msgspec.structs.replace(prompt, text=text))
        else:
            token_ids = self.tokenizer.encode_chat(
                prompt,
                lambda text: _expanded(
                    text, tower.image_token, read, "the model's chat template writes"
                ),
            )
        spans = _spans(token_ids, read, tower.image_token_id)
        turns = tower.turns(token_ids, read)
        if tower.text_token_id is not None:
            for span in spans:
                token_ids[span.start : span.end] = [tower.text_token_id] * len(span.embeddings)
        return token_ids, ImageInputs(tuple(spans), turns)


def _expanded(text: str, marker: str, images: Sequence[ReadImage], who: str) -> str:
    """Return a text with what each image comes to in the place of its marker.

    :raises InvalidParameter: there are more or fewer markers than images.
    """
    pieces = text.split(marker)
    if len(pieces) != len(images) + 1:
        raise InvalidParameter(f"{who} {len(pieces) - 1} images of {len(images)}", param=PARAM)
    between = [
        *(
            image.label.replace(NUMBER, str(number)) + image.text
            for number, image in enumerate(images)
        ),
        "",
    ]
    return "".join(piece + image for piece, image in zip(pieces, between, strict=True))


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
        mutual=image.mutual,
    )
