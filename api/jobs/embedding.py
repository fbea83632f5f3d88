"""Embeddings of texts: jobs of no tokens, whose answer is the prompt's vector. Knows no protocol."""

from __future__ import annotations

import base64
import sys
from array import array
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Final

from api.jobs.blame import Blame
from api.jobs.generation import Generation
from api.jobs.whole_answers import collect
from penstock.contract.job import WHOLE, Generate, Sampling, TextPrompt, TokenPrompt
from penstock.errors import EngineFailed, InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.http.record import RequestRecord
    from api.services import Services
    from penstock.contract.job import Prompt
    from penstock.contract.worker import ModelCard

CAPABILITY: Final = "embed"
AT_ONCE: Final = 64
"""Jobs of one request that wait or run at a time: a thousand texts must not fill the queue."""


@dataclass(frozen=True)
class Vectors:
    """Vectors, one a prompt, and the tokens of all prompts."""

    vectors: list[array[float]]
    prompt_tokens: int


@dataclass(frozen=True)
class Wish:
    """What an embedding shall be.

    `dimensions` None is all of them; `truncate` is a `TextPrompt`'s. `prompt_name` puts one of the
    model's prompts before each text, None its default one. `normalized` None is as the model is.
    """

    dimensions: int | None = None
    truncate: int = WHOLE
    prompt_name: str | None = None
    normalized: bool | None = None


def check(card: ModelCard, wish: Wish = Wish()) -> None:
    """Check that a model can give such embeddings.

    :raises UnsupportedFeature: it gives none, or none of so few dimensions.
    :raises InvalidParameter: it has no such prompt, or not so many dimensions.
    """
    if CAPABILITY not in card.capabilities:
        raise UnsupportedFeature(f"{card.name} gives no embeddings", param="model")
    known, wanted = card.embedding, wish.dimensions
    if wish.prompt_name is not None and wish.prompt_name not in (known.prompts if known else {}):
        names = ", ".join(sorted(known.prompts)) if known and known.prompts else "none"
        raise InvalidParameter(
            f"prompt_name: {card.name} has no prompt {wish.prompt_name!r:.100} (it has {names})",
            param="prompt_name",
        )
    if known is None or wanted in (None, known.dimensions):
        return
    if wanted > known.dimensions:
        raise InvalidParameter(
            f"dimensions: the model's embeddings have {known.dimensions}", param="dimensions"
        )
    if not known.any_length and wanted not in known.matryoshka:
        lengths = ", ".join(map(str, sorted(known.matryoshka)))
        raise UnsupportedFeature(
            f"dimensions: embeddings of {card.name} may be cut to {lengths}"
            if lengths
            else f"dimensions: embeddings of {card.name} are not made to be cut "
            f"(set matryoshka in models.toml if they are)",
            param="dimensions",
        )


async def embed(
    services: Services,
    record: RequestRecord,
    card: ModelCard,
    inputs: Sequence[str | list[int]],
    wish: Wish = Wish(),
) -> Vectors:
    """Return the embeddings of texts or token ids, in their order.

    :raises UnsupportedFeature, InvalidParameter: see `check`.
    """
    check(card, wish)
    prefix = _prefix(card, wish)
    prompts = [_prompt(text, card, prefix, wish.truncate) for text in inputs]
    vectors = await vectors_of(services, record, card, prompts, prompt_param="input")
    return Vectors(
        [_shaped(vector, card, wish) for vector in vectors.vectors], vectors.prompt_tokens
    )


async def vectors_of(
    services: Services,
    record: RequestRecord,
    card: ModelCard,
    prompts: Sequence[Prompt],
    *,
    prompt_param: str,
) -> Vectors:
    """Return what the model makes of each prompt, a part of them at a time.

    :raises PenstockError: as a generation does.
    """
    vectors: list[array[float]] = []
    tokens = 0
    blame = Blame(prompt_param)
    nothing = Sampling(seed=0, temperature=0, max_tokens=0)
    for start in range(0, len(prompts), AT_ONCE):
        works = [
            Generate(prompt, nothing, embed=True) for prompt in prompts[start : start + AT_ONCE]
        ]
        generation = await Generation.of(services, record, card, works, blame=blame)
        for answer in await collect(generation):
            vectors.append(_decoded(answer.embedding))
            tokens += answer.usage.prompt_tokens
    return Vectors(vectors, tokens)


def as_base64(vector: array[float]) -> str:
    """Return a vector as OpenAI encodes it: base64 of float32, little-endian."""
    return base64.b64encode(_swapped(vector).tobytes()).decode()


def unit(vector: array[float]) -> array[float]:
    """Return a vector scaled to length 1."""
    length = sqrt(sum(value * value for value in vector))
    return array("f", [value / length for value in vector]) if length else vector


def _prefix(card: ModelCard, wish: Wish) -> str:
    if card.embedding is None:
        return ""
    name = card.embedding.default_prompt if wish.prompt_name is None else wish.prompt_name
    return card.embedding.prompts.get(name, "")


def _prompt(
    text: str | list[int], card: ModelCard, prefix: str, truncate: int
) -> TextPrompt | TokenPrompt:
    if isinstance(text, str):
        return TextPrompt(prefix + text, truncate=truncate)
    if max(text) >= card.vocab_size:
        raise InvalidParameter(
            f"input: token id {max(text)} is outside of the vocabulary of {card.vocab_size} tokens",
            param="input",
        )
    return TokenPrompt(tuple(text), truncate=truncate)


def _decoded(encoded: str) -> array[float]:
    vector = array("f")
    vector.frombytes(base64.b64decode(encoded))
    if not vector:
        raise EngineFailed("the worker gave no embedding")
    return _swapped(vector)


def _shaped(vector: array[float], card: ModelCard, wish: Wish) -> array[float]:
    """Return the first dimensions of a vector, normalised again if it should have unit length.

    A causal model's vector is a mean of hidden states; it is always scaled.
    """
    if wish.dimensions is not None:
        if wish.dimensions > len(vector):
            raise InvalidParameter(
                f"dimensions: the model's embeddings have {len(vector)}", param="dimensions"
            )
        vector = vector[: wish.dimensions]
    own = card.embedding is None or card.embedding.normalized
    return unit(vector) if (own if wish.normalized is None else wish.normalized) else vector


def _swapped(vector: array[float]) -> array[float]:
    """Return a vector in the other order of bytes on a big-endian machine."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return vector
