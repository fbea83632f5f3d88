"""POST /v1/chat/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.access.dependencies import pick, services_of
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.middleware import record_of
from api.http.streaming import EventWriter, event_stream
from api.jobs.generation import Generation, collect, usage_of
from api.openai import unsupported
from api.openai.chat import best_of, sampling, tools
from api.openai.chat.answer_readings import ReadChunkWriter, read_message, reasoning_tokens
from api.openai.chat.answers import (
    Heading,
    chat_completion,
    fingerprint,
    plain_message,
    usage_object,
)
from api.openai.chat.chunks import CHAT, ChunkWriter
from api.openai.chat.messages import chat_prompt
from api.openai.chat.request_body import read_request
from api.openai.chat.tools import Reading
from api.openai.documentation import documented
from api.openai.schema import ChatRequest
from penstock.contract.job import Generate

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=documented(ChatRequest))
async def chat_completions(request: Request) -> Response:
    """Answer a chat."""
    services, record = services_of(request), record_of(request)
    asked, repeated = await read_request(request, ChatRequest, unsupported.CHAT)
    card = pick(request, asked.model)
    prompt = chat_prompt(asked)
    first = best_of.judged(sampling.sampling(asked, card, default_max_tokens=None), asked)
    reading = tools.reading_of(asked, card)
    choices = best_of.candidates(asked)
    works = [Generate(prompt, sampling.of_choice(first, choice)) for choice in range(choices)]
    generation = await Generation.of(
        services,
        record,
        card,
        works,
        prompt_param="messages",
        priority=asked.priority,
        choices=choices,
        resumption=repeated,
    )
    generation.hidden_token_ids = frozenset(first.stop_token_ids)
    generation.fault_params = tools.fault_params(asked)
    heading = Heading(f"chatcmpl-{generation.jobs[0].id}", asked.model, fingerprint(card))
    if not asked.stream:
        answers = await until_disconnect(request.receive, collect(generation))
        used = usage_of([answer.usage for answer in answers], choices)
        usage = usage_object(used, reasoning_tokens(reading, answers))
        choice_of = [
            (best_of.shown(answers[index], asked), generation.jobs[index].id)
            for index in best_of.kept(answers, asked)
        ]
        messages = [
            plain_message(answer) if reading.plain else read_message(reading, job_id, answer)
            for answer, job_id in choice_of
        ]
        whole = chat_completion(heading, [answer for answer, _ in choice_of], messages, usage)
        return json_response(whole, headers=generation.headers)
    writer = _writer(asked, reading, heading, generation)
    return event_stream(generation, writer)


def _writer(
    asked: ChatRequest, reading: Reading, heading: Heading, generation: Generation
) -> EventWriter:
    if reading.plain:
        return ChunkWriter(
            CHAT,
            heading,
            positions=len(generation.jobs),
            choices=len(generation.jobs),
            include_usage=asked.include_usage,
            after=generation.after,
        )
    generation.from_start = True
    return ReadChunkWriter(
        reading,
        heading,
        [job.id for job in generation.jobs],
        include_usage=asked.include_usage,
        after=generation.after,
    )
