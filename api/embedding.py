"""Embeddings of texts: jobs of no tokens, whose answer is the prompt's vector. Knows no protocol."""

from __future__ import annotations

import base64
import sys
from array import array
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Final

from api.generation import Generation, collect
from penstock.contract.job import Generate, Sampling, TextPrompt, TokenPrompt
from penstock.errors import EngineFailed, InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.middleware import RequestRecord
    from api.services import Services
    from penstock.contract.worker import ModelCard

CAPABILITY: Final = "embed"
AT_ONCE: Final = 64
"""Jobs of one request that wait or run at a time: a thousand texts must not fill the queue."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of unit length, one a text, and the tokens of all texts."""

    vectors: list[array[float]]
    prompt_tokens: int


async def embed(
    services: Services,
    record: RequestRecord,
    card: ModelCard,
    inputs: Sequence[str | list[int]],
    *,
    dimensions: int | None = None,
) -> Embedded:
    """Return the embeddings of texts or token ids, in their order.

    :raises UnsupportedFeature: the model gives none.
    :raises InvalidParameter: it has fewer dimensions than were asked for.
    """
    if CAPABILITY not in card.capabilities:
        raise UnsupportedFeature(f"{card.name} gives no embeddings", param="model")
    vectors: list[array[float]] = []
    tokens = 0
    for start in range(0, len(inputs), AT_ONCE):
        works = [_work(one, card) for one in inputs[start : start + AT_ONCE]]
        generation = await Generation.of(services, record, card, works, prompt_param="input")
        for answer in await collect(generation):
            vectors.append(_vector(answer.embedding, dimensions))
            tokens += answer.usage.prompt_tokens
    return Embedded(vectors, tokens)


def as_base64(vector: array[float]) -> str:
    """Return a vector as OpenAI encodes it: base64 of float32, little-endian."""
    return base64.b64encode(_swapped(vector).tobytes()).decode()


def _work(one: str | list[int], card: ModelCard) -> Generate:
    if isinstance(one, list) and max(one) >= card.vocab_size:
        raise InvalidParameter(
            f"input: token id {max(one)} is outside of the vocabulary of {card.vocab_size} tokens",
            param="input",
        )
    prompt = TextPrompt(one) if isinstance(one, str) else TokenPrompt(tuple(one))
    return Generate(prompt, Sampling(seed=0, temperature=0, max_tokens=0), embed=True)


def _vector(encoded: str, dimensions: int | None) -> array[float]:
    """Return the first dimensions of an embedding, scaled to unit length."""
    vector = array("f")
    vector.frombytes(base64.b64decode(encoded))
    vector = _swapped(vector)
    if not vector:
        raise EngineFailed("the worker gave no embedding")
    if dimensions is not None:
        if dimensions > len(vector):
            raise InvalidParameter(
                f"dimensions: the model's embeddings have {len(vector)}", param="dimensions"
            )
        vector = vector[:dimensions]
    length = sqrt(sum(value * value for value in vector))
    return array("f", [value / length for value in vector]) if length else vector


def _swapped(vector: array[float]) -> array[float]:
    """Return a vector in the other order of bytes on a big-endian machine."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return vector
