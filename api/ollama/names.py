"""Names of models: Ollama's clients may write a tag behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.http.record import record_of
from api.jobs.catalogue import catalogue
from api.jobs.routing import pick

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.services import Services
    from penstock.contract.worker import ModelCard

LATEST: Final = ":latest"


def plain_name(request: Request, services: Services, asked: str) -> str:
    """Return the served name that is meant: `tiny:latest` is `tiny`, if that is served."""
    short = asked.removesuffix(LATEST)
    if short == asked:
        return asked
    names = catalogue(services, record_of(request).caller)
    return short if asked not in names else asked


def pick_tagged(request: Request, services: Services, asked: str) -> ModelCard:
    """Return the queue that serves a model best just now.

    :raises PenstockError: as `api.jobs.routing.pick`.
    """
    return pick(request, plain_name(request, services, asked))
