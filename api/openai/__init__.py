"""OpenAI's API."""

from fastapi import APIRouter, Depends

from api.dependencies import authenticated
from api.openai import chat, completions, models, tokens

router = APIRouter(dependencies=[Depends(authenticated)], tags=["openai"])
for part in (models, chat, completions, tokens):
    router.include_router(part.router)
