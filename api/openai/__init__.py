"""OpenAI's API."""

from fastapi import APIRouter, Depends

from api.dependencies import authenticated
from api.openai import (
    batches,
    chat,
    completions,
    embeddings,
    files,
    models,
    rerank,
    responses,
    tokens,
)

router = APIRouter(dependencies=[Depends(authenticated)], tags=["openai"])
for part in (models, chat, completions, embeddings, rerank, responses, tokens, files, batches):
    router.include_router(part.router)

EXPEDITED = {
    "/v1/chat/completions": chat.chat_completions,
    "/v1/completions": completions.completions,
    "/v1/embeddings": embeddings.embeddings,
}
"""What models are asked through, time after time, by path."""
