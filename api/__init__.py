"""The HTTP API of Penstock: `uvicorn api:app`."""

from api.application import app, create_app

__all__ = ["app", "create_app"]
