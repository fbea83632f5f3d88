"""OpenAI's API."""

from fastapi import APIRouter, Depends

from api.access.dependencies import authenticated
from api.openai import embeddings, models, rerank, tokens
from api.openai.batches import files
from api.openai.batches import routes as batches
from api.openai.chat import completions
from api.openai.chat import routes as chat
from api.openai.responses import routes as responses

router = APIRouter(dependencies=[Depends(authenticated)], tags=["openai"])
for part in (models, chat, completions, embeddings, rerank, responses, tokens, files, batches):
    router.include_router(part.router)

EXPEDITED = {
    "/v1/chat/completions": chat.chat_completions,
    "/v1/completions": completions.completions,
    "/v1/embeddings": embeddings.embeddings,
}
"""What models are asked through, time after time, by path."""
