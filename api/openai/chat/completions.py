"""POST /v1/completions."""

import msgspec
from fastapi import Request
from starlette.responses import Response

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.record import record_of
from api.http.streaming import event_stream
from api.jobs.blame import Blame
from api.jobs.generation import Generation
from api.jobs.routing import pick
from api.jobs.whole_answers import collect, usage_of
from api.openai.chat import sampling, structures
from api.openai.chat.answers import Heading, fingerprint, text_completion
from api.openai.chat.best_of import Choices
from api.openai.chat.chunks import COMPLETION, ChunkWriter
from api.openai.chat.request_body import completion_request, read_request
from api.openai.schema import MAX_SEQUENCES, CompletionRequest
from penstock.contract.job import FillPrompt, Generate, TextPrompt, TokenPrompt
from penstock.contract.worker import ModelCard
from penstock.errors import InvalidParameter, UnsupportedFeature

router = Router()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""
FILLS_IN = "fim"
"""The capability that `suffix` needs."""


@router.endpoint("/v1/completions", CompletionRequest, direct=True)
async def completions(request: Request) -> Response:
    """Continue one or several prompts."""
    asked, repeated = await read_request(request, completion_request)
    card = pick(request, asked.model)
    choices = Choices.of(asked)
    works, blame = works_of(asked, card, choices)
    generation = await Generation.of(
        services_of(request),
        record_of(request),
        card,
        works,
        blame=blame,
        priority=asked.priority,
        choices=choices.made,
        resumption=repeated,
    )
    heading = Heading(f"cmpl-{generation.jobs[0].id}", asked.model, fingerprint(card))
    if not asked.stream:
        answers = await until_disconnect(request.receive, collect(generation))
        usage = usage_of([answer.usage for answer in answers], choices.made)
        best = [answers[position] for position in choices.best(answers)]
        content = text_completion(heading, best, usage) | record_of(request).warnings.member()
        return json_response(content, headers=generation.headers)
    writer = ChunkWriter(
        COMPLETION,
        heading,
        positions=len(works),
        choices=choices.made,
        include_usage=asked.include_usage,
        ids=generation.ids,
        after=generation.after,
    )
    return event_stream(generation, writer, numbered=repeated is not None)


def works_of(
    asked: CompletionRequest, card: ModelCard, choices: Choices
) -> tuple[list[Generate], Blame]:
    """Return the works and the fields to blame for their errors.

    The first prompt's works come first, then the second's, as OpenAI numbers its choices.
    """
    if len(asked.prompts) * choices.made > MAX_SEQUENCES:
        raise InvalidParameter(
            f"prompt: {len(asked.prompts)} prompts times {choices.made} answers are over "
            f"{MAX_SEQUENCES}",
            param="prompt",
        )
    first = sampling.sampling(asked, card, default_max_tokens=DEFAULT_MAX_TOKENS)
    blamed: dict[str, str] = {}
    if (form := structures.form_of(asked)) is not None:
        blamed["structure"], structure = form
        structures.check(blamed["structure"], asked, card)
        first = msgspec.structs.replace(first, structure=structure)
    first = choices.ranked(first)
    works = [
        Generate(
            _prompt(prompt, card, asked),
            sampling.of_choice(first, choice),
            echo=bool(asked.echo),
            fit_context=asked.max_tokens is None,  # the default is no wish of the client's
        )
        for prompt in asked.prompts
        for choice in range(choices.made)
    ]
    return works, Blame("prompt", blamed)


def _prompt(
    prompt: str | list[int], card: ModelCard, asked: CompletionRequest
) -> TextPrompt | TokenPrompt | FillPrompt:
    if asked.suffix:
        return _fill(prompt, card, asked, asked.suffix)
    if isinstance(prompt, str):
        return TextPrompt(prompt, add_special_tokens=asked.add_special_tokens is not False)
    if max(prompt) >= card.vocab_size:
        raise InvalidParameter(
            f"prompt: token id {max(prompt)} is outside of the vocabulary of "
            f"{card.vocab_size} tokens",
            param="prompt",
        )
    return TokenPrompt(tuple(prompt))


def _fill(
    prompt: str | list[int], card: ModelCard, asked: CompletionRequest, suffix: str
) -> FillPrompt:
    """Return a prompt with the text that follows the answer.

    :raises UnsupportedFeature: the model has no tokens for it.
    :raises InvalidParameter: the prompt is token ids, or its log probabilities are requested.
    """
    if FILLS_IN not in card.capabilities:
        raise UnsupportedFeature(
            f"suffix: {card.name} has no tokens to fill in with", param="suffix"
        )
    if not isinstance(prompt, str):
        raise InvalidParameter("suffix: the prompt must be text, not token ids", param="suffix")
    if asked.echo and asked.logprobs is not None:
        raise InvalidParameter("suffix: excludes echo with logprobs", param="suffix")
    return FillPrompt(prompt, suffix)
