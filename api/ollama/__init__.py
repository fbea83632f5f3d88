"""Ollama's API, over the same jobs: what its clients list, chat with and embed by."""

from typing import Final

from fastapi import Depends

from api.access.dependencies import authenticated
from api.endpoint import Router
from api.ollama import chat, embed, generate, management, models

router = Router(dependencies=[Depends(authenticated)], tags=["ollama"])
for part in (chat, generate, embed, models, management):
    router.include_router(part.router)

PREFIX: Final = "/api/"


def speaks(path: str) -> bool:
    """Whether errors at a path have Ollama's shape."""
    return path.startswith(PREFIX)
