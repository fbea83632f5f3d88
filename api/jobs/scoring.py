"""How well texts go with a text: by a cross-encoder, or by the angle of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.jobs.embedding import CAPABILITY as EMBEDS
from api.jobs.embedding import unit, vectors_of
from penstock.contract.job import PairPrompt, TextPrompt
from penstock.errors import UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.http.record import RequestRecord
    from api.services import Services
    from penstock.contract.worker import ModelCard

CAPABILITY: Final = "score"
QUERY_PROMPTS: Final = ("query", "search_query")
DOCUMENT_PROMPTS: Final = ("document", "passage", "search_document")


@dataclass(frozen=True)
class Scores:
    """A score for each pair, and the tokens of all of them."""

    scores: list[float]
    prompt_tokens: int


def check(card: ModelCard) -> None:
    """Check that a model can score pairs of texts.

    :raises UnsupportedFeature: it is neither a cross-encoder nor an embedding model.
    """
    if CAPABILITY not in card.capabilities and not (EMBEDS in card.capabilities and card.embedding):
        raise UnsupportedFeature(
            f"{card.name} gives no scores: it is neither a cross-encoder nor an embedding model",
            param="model",
        )


async def score(
    services: Services,
    record: RequestRecord,
    card: ModelCard,
    pairs: Sequence[tuple[str, str]],
    *,
    truncate: int,
    prompt_param: str,
) -> Scores:
    """Return a score for each (query, document).

    A cross-encoder's are those that its files define, mostly from 0 to 1; those of embeddings are cosines.

    :raises UnsupportedFeature: see `check`.
    """
    check(card)
    if CAPABILITY in card.capabilities:
        prompts = [PairPrompt(first, second, truncate) for first, second in pairs]
        results = await vectors_of(services, record, card, prompts, prompt_param=prompt_param)
        return Scores([vector[0] for vector in results.vectors], results.prompt_tokens)
    # Each text once: a ranking's query is the same in all pairs.
    queries = {text: _prefixed(card, text, QUERY_PROMPTS) for text, _ in pairs}
    documents = {text: _prefixed(card, text, DOCUMENT_PROMPTS) for _, text in pairs}
    texts = list(dict.fromkeys((*queries.values(), *documents.values())))
    results = await vectors_of(
        services,
        record,
        card,
        [TextPrompt(text, truncate=truncate) for text in texts],
        prompt_param=prompt_param,
    )
    vectors = dict(zip(texts, map(unit, results.vectors), strict=True))
    cosines = [
        sum(x * y for x, y in zip(vectors[queries[a]], vectors[documents[b]], strict=True))
        for a, b in pairs
    ]
    return Scores(cosines, results.prompt_tokens)


def _prefixed(card: ModelCard, text: str, names: tuple[str, ...]) -> str:
    """Return a text preceded by the model's prompt for its kind, if it has one."""
    prompts = card.embedding.prompts if card.embedding else {}
    return next((prompts[name] for name in names if name in prompts), "") + text
