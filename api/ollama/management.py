"""Ollama's routes that change its store of models: here an operator does that, not a client."""

from __future__ import annotations

from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.endpoint import Router
from penstock.errors import UnsupportedFeature

router = Router()


@router.endpoint("/api/pull", method="POST")
@router.endpoint("/api/push", method="POST")
@router.endpoint("/api/create", method="POST")
@router.endpoint("/api/copy", method="POST")
@router.endpoint("/api/delete", method="DELETE")
@router.endpoint("/api/blobs/{digest}", method="POST")
async def refuse() -> Response:
    """Refuse with a clear message.

    :raises UnsupportedFeature: always.
    """
    raise UnsupportedFeature(
        "models are put into the fleet's models folder by its operator, not by clients; "
        "GET /api/tags lists what is served"
    )
