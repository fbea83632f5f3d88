"""POST /v1/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.access.dependencies import pick, services_of
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.middleware import record_of
from api.http.streaming import event_stream
from api.jobs.generation import Generation, collect, usage_of
from api.openai import unsupported
from api.openai.chat import best_of, sampling, structures
from api.openai.chat.answers import Heading, fingerprint, text_completion
from api.openai.chat.chunks import COMPLETION, ChunkWriter
from api.openai.chat.request_body import read_request
from api.openai.documentation import documented
from api.openai.schema import MAX_SEQUENCES, CompletionRequest
from penstock.contract.job import FillPrompt, Generate, TextPrompt, TokenPrompt
from penstock.contract.worker import ModelCard
from penstock.errors import InvalidParameter, UnsupportedFeature

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""
FILLS_IN = "fim"
"""The capability that `suffix` asks for."""


@router.post("/v1/completions", openapi_extra=documented(CompletionRequest))
async def completions(request: Request) -> Response:
    """Go on from one or several prompts."""
    services, record = services_of(request), record_of(request)
    asked, repeated = await read_request(request, CompletionRequest, unsupported.COMPLETION)
    card = pick(request, asked.model)
    works = _works(asked, card)
    choices = best_of.candidates(asked)
    generation = await Generation.of(
        services,
        record,
        card,
        works,
        prompt_param="prompt",
        priority=asked.priority,
        choices=choices,
        resumption=repeated,
    )
    form = structures.form_of(asked)
    generation.fault_params = {"structure": form[0]} if form else {}
    heading = Heading(f"cmpl-{generation.jobs[0].id}", asked.model, fingerprint(card))
    if not asked.stream:
        answers = await until_disconnect(request.receive, collect(generation))
        usage = usage_of([answer.usage for answer in answers], choices)
        best = [best_of.shown(answers[index], asked) for index in best_of.kept(answers, asked)]
        return json_response(text_completion(heading, best, usage), headers=generation.headers)
    writer = ChunkWriter(
        COMPLETION,
        heading,
        positions=len(works),
        choices=choices,
        include_usage=asked.include_usage,
        after=generation.after,
    )
    return event_stream(generation, writer)


def _works(asked: CompletionRequest, card: ModelCard) -> list[Generate]:
    """Return the works of the first prompt, then of the second, as OpenAI numbers its choices."""
    choices = best_of.candidates(asked)
    if len(asked.prompts) * choices > MAX_SEQUENCES:
        raise InvalidParameter(
            f"prompt: {len(asked.prompts)} prompts times {choices} answers are over {MAX_SEQUENCES}",
            param="prompt",
        )
    first = sampling.sampling(asked, card, default_max_tokens=DEFAULT_MAX_TOKENS)
    first = best_of.judged(first, asked)
    return [
        Generate(
            _prompt(prompt, card, asked),
            sampling.of_choice(first, choice),
            echo=bool(asked.echo),
        )
        for prompt in asked.prompts
        for choice in range(choices)
    ]


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
    """Return a prompt with what comes after the answer.

    :raises UnsupportedFeature: the model has no tokens for it.
    :raises InvalidParameter: the prompt is of token ids, or is to be scored.
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
