"""What route handlers take from their request."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, cast

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation

from api.middleware import record_of
from penstock.errors import NotAuthenticated, NoWorker, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.services import Services
    from penstock.contract.worker import ModelCard

TENANT_CHARACTERS = 16


def services_of(request: Request) -> Services:
    """Return the process's services."""
    return cast("Services", request.app.state.services)


def tenant_of_key(key: str) -> str:
    """Return the tenant's name: part of a hash, so that no key gets into Redis or a log."""
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:TENANT_CHARACTERS]


def authenticate(authorization: str, keys: Sequence[str]) -> str:
    """Return the tenant of an Authorization header; "anonymous" where no key is asked for.

    :raises NotAuthenticated: keys are asked for, and this is none of them.
    """
    if not keys:
        return "anonymous"
    scheme, _, given = authorization.partition(" ")
    given = given.strip()
    if scheme.lower() != "bearer" or not given:
        raise NotAuthenticated("An API key is needed: Authorization: Bearer <key>")
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    # Every key is compared, in constant time: the answer's delay tells nothing.
    matches = [hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in keys]
    if not any(matches):
        raise NotAuthenticated("The API key is not known here")
    return tenant_of_key(given)


def authenticated(request: Request) -> None:
    """Let only known callers pass; a router's dependency.

    :raises NotAuthenticated: see `authenticate`.
    """
    keys = services_of(request).settings.api_keys
    record_of(request).tenant = authenticate(request.headers.get("authorization", ""), keys)


def pick(request: Request, model: str) -> ModelCard:
    """Return the queue that serves `model` best just now, and note the model in the record.

    :raises UnknownModel, NoWorker, StoreUnavailable: as the registry does.
    """
    try:
        card = services_of(request).registry.pick(model)
    except (UnknownModel, NoWorker) as error:
        error.param = "model"
        raise
    record_of(request).model = card.name
    return card
