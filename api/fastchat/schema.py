"""FastChat's request bodies, and the way from its generation request to `Generate`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from api.fastchat import default_template, image_places
from api.fastchat.envelope import opened
from api.openai.chat.sampling import SEED_BITS, SEED_MASK, TINY_TOP_P, of_choice
from api.openai.chat_images import as_url
from api.openai.schema import MAX_BEST_OF
from penstock.contract.job import ChatPrompt, Generate, Sampling, TextPrompt
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from api.openai.chat_images import ChatImages
    from penstock.contract.worker import ModelCard

GREEDY_BELOW: Final = 1e-5
"""FastChat decodes greedily from this temperature on down."""
MAX_STOPS: Final = 64
MAX_LOGPROBS: Final = 20
MOST: Final = 100
"""Of a temperature and a repetition penalty."""
MOST_PENALTY: Final = 2
"""Of a presence or a frequency penalty, above and below zero."""


def _listed(value: Any) -> Any:
    if value == "":
        return []
    return [value] if isinstance(value, str) else value


class Body(BaseModel):
    """Fields that we do not know are of newer versions; null means the default."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        return {name: field for name, field in fields.items() if field is not None}


class ModelName(Body):
    """The body of most calls: a model."""

    model: str


class OptionalModelName(Body):
    """A real worker serves one model and looks at no name."""

    model: str | None = None


class CountRequest(OptionalModelName):
    """`/count_token`."""

    prompt: str


class EmbeddingsRequest(OptionalModelName):
    """`/worker_get_embeddings`."""

    input: list[str] | str
    encoding_format: Literal["float", "base64"] | None = None


class GenerationRequest(OptionalModelName):
    """`/worker_generate` and `/worker_generate_stream`, with the defaults of FastChat's worker."""

    prompt: str
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_new_tokens: int = 256
    stop: Annotated[list[str], BeforeValidator(_listed)] = []
    stop_token_ids: list[int] = []
    echo: bool = True
    logprobs: int | None = None
    images: list[Annotated[str, AfterValidator(as_url)]] = []
    best_of: int = 1
    use_beam_search: bool = False
    seed: int | None = None


def _require(*, holds: bool, param: str, message: str) -> None:
    if not holds:
        raise InvalidParameter(f"{param}: {message}", param=param)


def _check(asked: GenerationRequest) -> None:
    if asked.use_beam_search:
        raise UnsupportedFeature("beam search is not supported", param="use_beam_search")
    penalty = f"must be from -{MOST_PENALTY} to {MOST_PENALTY}"
    limits = (
        ("temperature", 0 <= asked.temperature <= MOST, f"must be from 0 to {MOST}"),
        ("top_p", 0 <= asked.top_p <= 1, "must be from 0 to 1"),
        ("top_k", asked.top_k >= -1, "must be -1 (off) or more"),
        ("repetition_penalty", 0 < asked.repetition_penalty <= MOST, f"over 0 to {MOST}"),
        ("presence_penalty", abs(asked.presence_penalty) <= MOST_PENALTY, penalty),
        ("frequency_penalty", abs(asked.frequency_penalty) <= MOST_PENALTY, penalty),
        ("max_new_tokens", asked.max_new_tokens >= 1, "must be 1 or more"),
        ("stop", len(asked.stop) <= MAX_STOPS, f"must be {MAX_STOPS} or fewer"),
        ("logprobs", 0 <= (asked.logprobs or 0) <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}"),
        ("best_of", 1 <= asked.best_of <= MAX_BEST_OF, f"must be from 1 to {MAX_BEST_OF}"),
    )
    for param, holds, message in limits:
        _require(holds=holds, param=param, message=message)


def prompt_of(text: str, card: ModelCard, *, echo: bool = False) -> TextPrompt | ChatPrompt:
    """Return a prompt as the model is to see it: the chat that it quotes, or the text itself.

    With `echo` the client gets the exact text back, so FastChat's default templates are kept.
    """
    prompt = opened(text)
    if isinstance(prompt, TextPrompt) and card.has_chat_template and not echo:
        messages = default_template.messages_of(text)
        if messages is not None:
            return ChatPrompt(messages)
    return prompt


def works_of(asked: GenerationRequest, card: ModelCard, images: ChatImages) -> list[Generate]:
    """Return the work that FastChat's request stands for, `best_of` times.

    Its images go into `images`; they are bare base64 or URLs, one for each marker in the prompt.

    `max_new_tokens` is the most that there may be: if the context has room for less, less it
    is (FastChat's web UI asks for 1,024 whatever the model). Token ids to stop at that are not in
    the vocabulary come from a template that was chosen by the model's name alone, and never match.

    :raises InvalidParameter: a value is out of its range, or an image does not fit.
    :raises UnsupportedFeature: images for a model that takes none, beam search.
    """
    _check(asked)
    digests = [
        images.digest(image, f"images[{position}]") for position, image in enumerate(asked.images)
    ]
    prompt = image_places.filled(prompt_of(asked.prompt, card, echo=asked.echo), digests)
    of_template = isinstance(prompt, ChatPrompt) and asked.prompt.startswith(
        default_template.OPENING
    )
    template_stops = (default_template.STOP,) if of_template else ()
    stops = (text for text in asked.stop if text and text not in template_stops)
    sampling = Sampling(
        seed=secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed & SEED_MASK,
        temperature=0.0 if asked.temperature < GREEDY_BELOW else asked.temperature,
        top_p=max(asked.top_p, TINY_TOP_P),
        top_k=max(asked.top_k, 0),
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        max_tokens=asked.max_new_tokens,
        stop=(*stops, *card.stop_strings),
        stop_token_ids=(
            *(token for token in asked.stop_token_ids if 0 <= token < card.vocab_size),
            *card.stop_token_ids,
        ),
        logprobs=0 if asked.logprobs is None and asked.best_of > 1 else asked.logprobs,
    )
    return [
        Generate(prompt, of_choice(sampling, choice), echo=asked.echo, fit_context=True)
        for choice in range(asked.best_of)
    ]
