"""What route handlers take from their request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation

from api.access.browsers import check_host, check_origin
from api.access.keys import given_key, identify
from api.http.caller import ANONYMOUS
from api.http.record import record_of
from penstock.errors import NotPermitted

if TYPE_CHECKING:
    from api.http.caller import Caller
    from api.services import Services

CALLER_KEY: Final = "penstock.caller"
"""Of an ASGI scope, which no client can write."""


def services_of(request: Request) -> Services:
    """Return the process's services."""
    return cast("Services", request.app.state.services)


async def authenticated(request: Request) -> None:
    """Let only known callers pass; a router's dependency.

    A call that the process makes itself, for a batch, brings its caller along.

    :raises NotAuthenticated, StoreUnavailable: see `api.access.keys.identify`.
    :raises NotPermitted: see `api.access.browsers`.
    """
    record = record_of(request)
    caller: Caller | None = request.scope.get(CALLER_KEY)
    if caller is None:
        headers, services = request.headers, services_of(request)
        check_origin(headers, services.settings)
        given = given_key(headers.get("authorization", ""), headers.get("x-api-key", ""))
        caller = await identify(services, given)
        if caller.tenant == ANONYMOUS:
            check_host(headers, services.settings)
    record.caller, record.tenant = caller, caller.tenant


async def administrator(request: Request) -> None:
    """Let only those pass who may operate the fleet; a router's dependency.

    :raises NotPermitted: a key without that right.
    :raises NotAuthenticated, StoreUnavailable: see `api.access.keys.identify`.
    """
    await authenticated(request)
    if not record_of(request).caller.is_admin:
        raise NotPermitted("This API key may not operate the fleet")
