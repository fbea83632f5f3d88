"""Anthropic's Messages API, over the same jobs."""

from fastapi import APIRouter, Depends

from api.anthropic import messages
from api.anthropic.route import AnthropicRoute
from api.dependencies import authenticated

router = APIRouter(
    dependencies=[Depends(authenticated)], tags=["anthropic"], route_class=AnthropicRoute
)
router.include_router(messages.router)

PATHS = frozenset(
    route.path for route in messages.router.routes if isinstance(route, AnthropicRoute)
)
"""Where errors have Anthropic's shape."""
