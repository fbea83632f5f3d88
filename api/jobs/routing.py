"""From the name that a client asks for to the queue that serves it best.

An alias of the aliases file stands for models by weight; a model is served by several queues, of
which the one with the shortest expected wait is taken. If none can take the request just now, a
fallback may, if the alias or the client names one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.access.dependencies import services_of
from api.http.record import record_of
from api.http.resumption import KEY_HEADER
from api.jobs.catalogue import catalogue
from penstock.contract.worker import IMAGES
from penstock.errors import InvalidParameter, NoWorker, UnknownModel

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.http.caller import Caller
    from api.services import Services
    from penstock.contract.worker import ModelCard
    from penstock.errors import PenstockError

FALLBACK_HEADER: Final = "x-penstock-fallback"
MODEL_HEADER: Final = "x-penstock-model"
"""Response header: the model that was chosen."""
MOST_FALLBACKS: Final = 8


def fallbacks_of(header: str) -> tuple[str, ...]:
    """Return the models that a request's header names.

    :raises InvalidParameter: they are too many.
    """
    names = tuple(name.strip() for name in header.split(",") if name.strip())
    if len(names) > MOST_FALLBACKS:
        raise InvalidParameter(
            f"{FALLBACK_HEADER}: over {MOST_FALLBACKS} models", param=FALLBACK_HEADER
        )
    return names


def route(
    services: Services,
    caller: Caller,
    asked: str,
    fallbacks: tuple[str, ...] = (),
    *,
    seed: str | None = None,
) -> ModelCard:
    """Return the card of the queue that a request goes to; the same seed draws the same version.

    A model whose queues are full, or whose workers have just gone, is passed over where another
    name is left that has room.

    :raises UnknownModel, NoWorker, StoreUnavailable: as the registry does, about the requested name.
    :raises NotPermitted: it is none of the key's models.
    """
    first: PenstockError | None = None
    crowded: ModelCard | None = None
    for name, public in _names(services, asked, fallbacks, seed):
        try:
            card, has_room = _pick(services, name)
        except (UnknownModel, NoWorker) as error:
            first = first or error
            continue
        caller.check_model(public, card)
        if has_room:
            return card
        crowded = crowded or card
    if crowded is not None:
        return crowded
    assert first is not None  # noqa: S101  there is one name at least
    raise _unserved(asked, first)


def look_up(services: Services, asked: str) -> ModelCard:
    """Return the card of what a name stands for, the heaviest model of an alias; nothing is chosen.

    :raises UnknownModel, NoWorker, StoreUnavailable: as `route`.
    """
    alias = services.aliases.get(asked)
    first: PenstockError | None = None
    for name in alias.heaviest_first if alias else (asked,):
        try:
            return services.registry.resolve(name)[0].card
        except (UnknownModel, NoWorker) as error:
            first = first or error
            card = services.peers.card(name)
            if card is not None:
                return card
    assert first is not None  # noqa: S101  there is one name at least
    raise _unserved(asked, first)


def pick(request: Request, model: str) -> ModelCard:
    """Return the queue that serves `model` best just now, and note the model in the record.

    :raises PenstockError: as `route`.
    """
    record, headers = record_of(request), request.headers
    card = route(
        services_of(request),
        record.caller,
        model,
        fallbacks_of(headers.get(FALLBACK_HEADER, "")),
        seed=headers.get(KEY_HEADER),  # a repeated request goes to the same model
    )
    record.model = card.name
    record.headers[MODEL_HEADER] = card.name
    return card


def image_models(request: Request) -> list[str]:
    """Return the names of models that take images and that the request's key may use."""
    cards = catalogue(services_of(request), record_of(request).caller)
    takers = {name: card for name, card in cards.items() if IMAGES in card.capabilities}
    # A key may be for an alias alone.
    return sorted({card.name if card.name in cards else name for name, card in takers.items()})


def _names(
    services: Services, asked: str, fallbacks: tuple[str, ...], seed: str | None
) -> list[tuple[str, str]]:
    """Return the names to try, each with the one that the key must be allowed to use."""
    alias = services.aliases.get(asked)
    own = [(name, asked) for name in alias.order(seed)] if alias else [(asked, asked)]
    out = [(name, asked) for name in alias.fallback] if alias else []
    for fallback in fallbacks:
        other = services.aliases.get(fallback)
        names = other.order(seed) if other else (fallback,)
        out += [(name, fallback) for name in names]
    return own + out


def _pick(services: Services, name: str) -> tuple[ModelCard, bool]:
    """Return a model's card, and whether it takes a further job just now."""
    try:
        card = services.registry.pick(name)
    except (UnknownModel, NoWorker):
        card = services.peers.card(name)
        if card is None:
            raise
        return card, True  # FastChat's workers have no bound that is known here
    return card, services.registry.has_room(card)


def _unserved(asked: str, error: PenstockError) -> PenstockError:
    if isinstance(error, UnknownModel):  # an alias's model: the client has asked for the alias
        error = UnknownModel(f"the model {asked!r} does not exist")
    error.param = "model"
    return error
