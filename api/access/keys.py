"""Who calls, and what that key may do.

Keys come from `PENSTOCK_API_KEYS` (no limits, and they may operate the fleet) and from `penstock
keys create` (in Redis, each with its limits). A key's id is its tenant, so that shares of the
queue are fair between keys.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from api.http.caller import Caller
from penstock.errors import NotAuthenticated, QuotaExceeded, RateLimited
from penstock.transport.accounts.quotas import Taken, resets_in_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.http.record import RequestRecord
    from api.services import Services
    from penstock.transport.accounts.keyring import KeyCard
    from penstock.transport.accounts.limits import Allowance

TENANT_CHARACTERS: Final = 16


def tenant_of_key(key: str) -> str:
    """Return a name for a key: part of a hash, so that no key gets into Redis or a log."""
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:TENANT_CHARACTERS]


def given_key(authorization: str, api_key: str) -> str:
    """Return the key of the headers `Authorization` (Bearer) or `x-api-key`; "" for none."""
    scheme, _, given = authorization.partition(" ")
    given = given.strip()
    return given if scheme.lower() == "bearer" and given else api_key.strip()


def is_among(given: str, keys: Sequence[str]) -> bool:
    """Return whether a key is one of these; all are compared, in constant time."""
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    matches = [hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in keys]
    return any(matches)


async def identify(services: Services, given: str) -> Caller:
    """Return the owner of a key; anonymous if no key is required.

    :raises NotAuthenticated: keys are required, and this is none of them.
    :raises StoreUnavailable: Redis is away, and this key has not been looked up recently.
    """
    settings = services.settings
    if given and is_among(given, settings.api_keys):
        return Caller(tenant_of_key(given))
    card = await services.keyring.find(given) if given else None
    if card is not None:
        return Caller(card.id, card, card.admin)
    if settings.api_keys or settings.require_key or await services.keyring.is_used():
        if not given:
            raise NotAuthenticated("An API key is needed: Authorization: Bearer <key>")
        raise NotAuthenticated("The API key is not known here, or has expired")
    return Caller()


async def admit(services: Services, record: RequestRecord, tokens: int) -> Taken:
    """Take a request of about `tokens` from its key's limits and quotas; report them to the client.

    :raises RateLimited: there is not enough left of this minute's.
    :raises QuotaExceeded: nothing is left of this day's or month's.
    :raises StoreUnavailable:
    """
    card = record.caller.card
    if card is None:
        return Taken()
    if card.requests_per_min or card.tokens_per_min:
        await _admit_to_minute(services, record, card, tokens)
    taken = await services.quotas.take(card, tokens)
    if taken.over:
        await services.limits.settle(card, -tokens)
        limit = card.tokens_per_day if taken.over == "day" else card.tokens_per_month
        raise QuotaExceeded(
            f"The key {card.name!r} has used up its quota of {limit} tokens a {taken.over}",
            retry_after_s=resets_in_s(taken.over),
        )
    return taken


async def _admit_to_minute(
    services: Services, record: RequestRecord, card: KeyCard, tokens: int
) -> None:
    allowance = await services.limits.take(card, tokens)
    record.headers.update(limit_headers(allowance))
    if allowance.wait_s:
        raise RateLimited(
            f"Rate limit reached for the key {card.name!r}: {_bounds(card)}; "
            f"try again in {duration(allowance.wait_s)}",
            retry_after_s=allowance.wait_s,
        )


def _bounds(card: KeyCard) -> str:
    requests = f"{card.requests_per_min} requests" if card.requests_per_min else ""
    tokens = f"{card.tokens_per_min} tokens" if card.tokens_per_min else ""
    return " and ".join(filter(None, (requests, tokens))) + " a minute"


def limit_headers(allowance: Allowance) -> dict[str, str]:
    """Return OpenAI's headers."""
    headers: dict[str, str] = {}
    for name, bucket in (("requests", allowance.requests), ("tokens", allowance.tokens)):
        if bucket is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.most)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(bucket.left, 0))
            headers[f"x-ratelimit-reset-{name}"] = duration(bucket.reset_s)
    return headers


def duration(seconds: float) -> str:
    """Return a time as OpenAI's headers have it: "6m0s", "1.2s", "20ms"."""
    if seconds < 1:
        return f"{max(round(seconds * 1000), 0)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.0f}s" if minutes else f"{rest:.3g}s"
