"""FastChat's protocols.

This process is a controller and, at the address that it hands out, a worker for every model.
"""

from api.endpoint import Router
from api.fastchat import controller, worker
from api.fastchat.route import VOUCHED_PREFIX, FastChatRoute

router = Router(tags=["fastchat"], route_class=FastChatRoute)
for part in (controller, worker):
    router.include_router(part.router)
router.include_router(controller.vouched_router)

PATHS = frozenset(
    route.path
    for part in (controller, worker)
    for route in part.router.routes
    if isinstance(route, FastChatRoute)
)
"""Where FastChat's programs ask."""


def speaks(path: str) -> bool:
    """Whether errors at a path have FastChat's shape."""
    return path in PATHS or path.startswith(VOUCHED_PREFIX)
