"""Anthropic's Messages API, over the same jobs."""

from typing import Final

from fastapi import Depends

from api.access.dependencies import authenticated
from api.anthropic import messages
from api.anthropic.route import AnthropicRoute
from api.endpoint import Router

router = Router(
    dependencies=[Depends(authenticated)], tags=["anthropic"], route_class=AnthropicRoute
)
router.include_router(messages.router)

PREFIX: Final = "/v1/messages"


def speaks(path: str) -> bool:
    """Whether errors at a path have Anthropic's shape."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")
