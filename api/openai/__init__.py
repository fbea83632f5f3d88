"""OpenAI's API."""

from fastapi import Depends

from api.access.dependencies import authenticated
from api.endpoint import Router
from api.openai import embeddings, models, rerank, tokens
from api.openai.batches import files
from api.openai.batches import routes as batches_routes
from api.openai.chat import completions
from api.openai.chat import routes as chat_routes
from api.openai.responses import routes as responses_routes

router = Router(dependencies=[Depends(authenticated)], tags=["openai"])
PARTS = (
    *(models, chat_routes, completions, embeddings, rerank),
    *(responses_routes, tokens, files, batches_routes),
)
for part in PARTS:
    router.include_router(part.router)
