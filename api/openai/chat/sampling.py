"""OpenAI's parameters and the model card's defaults -> `Sampling`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.contract.job import Sampling
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from api.openai.schema import GenerationRequest
    from penstock.contract.worker import ModelCard

SEED_BITS: Final = 63
SEED_MASK: Final = 2**SEED_BITS - 1
TINY_TOP_P: Final = 1e-6
"""OpenAI takes `top_p: 0` to mean the best token alone."""


def sampling(
    asked: GenerationRequest, card: ModelCard, *, default_max_tokens: int | None
) -> Sampling:
    """Return how the model decodes this request's first choice, without its `structure`.

    A value comes from the client, else from the model's card, else from OpenAI's defaults.

    :raises InvalidParameter: a token id is outside of the model's vocabulary, or
        `min_tokens` is over `max_tokens`.
    """
    chosen = _Chosen(asked, card.generation_defaults)
    max_tokens = asked.answer_tokens
    if max_tokens is None:
        max_tokens = chosen("max_tokens", default_max_tokens)
    min_tokens = asked.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidParameter(
            f"min_tokens {min_tokens} is over max_tokens {max_tokens}", param="min_tokens"
        )
    ignore_eos = bool(asked.ignore_eos)
    stop_token_ids = tuple(asked.stop_token_ids or ())
    biases = asked.logit_bias or {}
    _check_vocabulary("stop_token_ids", stop_token_ids, card)
    _check_vocabulary("logit_bias", biases, card)
    return Sampling(
        seed=secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed & SEED_MASK,
        temperature=chosen("temperature", 1.0),
        top_p=max(chosen("top_p", 1.0), TINY_TOP_P),
        top_k=max(chosen("top_k", 0), 0),
        min_p=chosen("min_p", 0.0),
        repetition_penalty=chosen("repetition_penalty", 1.0),
        presence_penalty=chosen("presence_penalty", 0.0),
        frequency_penalty=chosen("frequency_penalty", 0.0),
        logit_bias=biases,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=ignore_eos,
        # A model's own stops end its answers as EOS does.
        stop=tuple(asked.stop or ()) + (() if ignore_eos else card.stop_strings),
        stop_token_ids=stop_token_ids + (() if ignore_eos else card.stop_token_ids),
        logprobs=asked.wanted_logprobs,
    )


class _Chosen:
    """Look a parameter up: the client's value, the card's, the fallback."""

    def __init__(self, asked: GenerationRequest, defaults: dict[str, Any]) -> None:
        self._asked = asked
        self._defaults = defaults

    def __call__(self, name: str, otherwise: Any) -> Any:
        value = getattr(self._asked, name)
        if value is None:
            value = self._defaults.get(name)
        return otherwise if value is None else value


def _check_vocabulary(param: str, token_ids: Any, card: ModelCard) -> None:
    beyond = next((token for token in token_ids if token >= card.vocab_size), None)
    if beyond is not None:
        raise InvalidParameter(
            f"{param}: token id {beyond} is outside of the vocabulary of {card.vocab_size} tokens",
            param=param,
        )


def of_choice(first: Sampling, choice: int) -> Sampling:
    """Return choice number `choice` of `n`: the first with the seed moved far away.

    Choice 0 has the request's own seed, so that `n` does not change the first answer.
    """
    return first if choice == 0 else msgspec.structs.replace(first, seed=_mixed(first.seed, choice))


def _mixed(seed: int, choice: int) -> int:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014) over seed and choice."""
    mask = 2**64 - 1
    mixed = (seed + choice * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) & SEED_MASK
