"""POST /v1/chat/completions."""

from fastapi import Request
from starlette.responses import Response

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.record import record_of
from api.http.streaming import EventWriter, event_stream
from api.http.warnings import Warnings
from api.jobs.generation import Generation
from api.jobs.routing import pick
from api.jobs.whole_answers import collect, usage_of
from api.openai.chat.answer_readings import ReadChunkWriter, read_message, reasoning_tokens
from api.openai.chat.answers import (
    Heading,
    chat_completion,
    fingerprint,
    plain_message,
    usage_object,
)
from api.openai.chat.chunks import CHAT, ChunkWriter
from api.openai.chat.plan import ChatPlan
from api.openai.chat.request_body import chat_request, read_request
from api.openai.image_sources import images_of_chat
from api.openai.schema import ChatRequest

router = Router()


@router.endpoint("/v1/chat/completions", ChatRequest, direct=True)
async def chat_completions(request: Request) -> Response:
    """Answer a chat."""
    asked, repeated = await read_request(request, chat_request)
    card = pick(request, asked.model)
    images = await images_of_chat(request, card, asked)
    plan = ChatPlan.of(asked, card, images)
    for text in plan.unenforced:
        record_of(request).warnings.add(text)
    generation = await Generation.of(
        services_of(request),
        record_of(request),
        card,
        plan.works,
        blame=plan.blame,
        priority=plan.priority,
        images=plan.images,
        choices=plan.choices.made,
        resumption=repeated,
        # A parser has to see an answer from its first token on.
        replayed=bool(asked.stream) and not plan.reading.plain,
        hidden_token_ids=plan.hidden_token_ids,
    )
    heading = Heading(f"chatcmpl-{generation.jobs[0].id}", asked.model, fingerprint(card))
    if asked.stream:
        numbered = repeated is not None
        writer = _writer(asked, plan, heading, generation)
        return event_stream(generation, writer, numbered=numbered)
    answer = _whole(plan, heading, generation, record_of(request).warnings)
    return await until_disconnect(request.receive, answer)


async def _whole(
    plan: ChatPlan, heading: Heading, generation: Generation, warnings: Warnings
) -> Response:
    answers = await collect(generation)
    usage = usage_object(
        usage_of([answer.usage for answer in answers], plan.choices.made),
        reasoning_tokens(plan.reading, answers),
    )
    best = plan.choices.best(answers)
    messages = [
        plain_message(answers[position])
        if plan.reading.plain
        else read_message(plan.reading, generation.jobs[position].id, answers[position])
        for position in best
    ]
    content = chat_completion(heading, [answers[position] for position in best], messages, usage)
    return json_response(content | warnings.member(), headers=generation.headers)


def _writer(
    asked: ChatRequest,
    plan: ChatPlan,
    heading: Heading,
    generation: Generation,
) -> EventWriter:
    if plan.reading.plain:
        return ChunkWriter(
            CHAT,
            heading,
            positions=len(generation.jobs),
            choices=len(generation.jobs),
            include_usage=asked.include_usage,
            ids=generation.ids,
            after=generation.after,
        )
    return ReadChunkWriter(
        plan.reading,
        heading,
        [job.id for job in generation.jobs],
        include_usage=asked.include_usage,
        ids=generation.ids,
        after=generation.after,
    )
