"""OpenAI's API."""

from fastapi import APIRouter, Depends

from api.access.dependencies import authenticated
from api.openai import embeddings, models, rerank, tokens
from api.openai.batches import files
from api.openai.batches import routes as batches_routes
from api.openai.chat import completions
from api.openai.chat import routes as chat_routes
from api.openai.responses import routes as responses_routes

router = APIRouter(dependencies=[Depends(authenticated)], tags=["openai"])
PARTS = (
    *(models, chat_routes, completions, embeddings, rerank),
    *(responses_routes, tokens, files, batches_routes),
)
for part in PARTS:
    router.include_router(part.router)

EXPEDITED = {
    "/v1/chat/completions": chat_routes.chat_completions,
    "/v1/completions": completions.completions,
    "/v1/embeddings": embeddings.embeddings,
}
"""What models are asked through, time after time, by path."""
