"""The names that a client may ask for, whatever its protocol, and what each stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.http.caller import Caller
    from api.services import Services
    from penstock.contract.worker import ModelCard


def catalogue(
    services: Services, caller: Caller, theirs: Iterable[str] | None = None
) -> dict[str, ModelCard]:
    """Return each served name that a caller may use, sorted, with the card of its model.

    They are models of live workers, with the aliases that those announce; the models of FastChat's
    workers (`theirs` names the ones to list, by default all); and the aliases file's names, as long
    as one of their models is among these. A name goes where `api.jobs.routing` sends it: an alias of the
    file before a model of the same name, our workers before FastChat's. An alias of several models
    has the card of the heaviest.
    """
    known = _models(services, theirs)
    listed = {name: card for name, card in known.items() if name != card.queue}
    for name in services.aliases.names():
        listed.pop(name, None)
        alias = services.aliases.get(name)
        models = alias.heaviest_first if alias else ()
        if (card := next((known[model] for model in models if model in known), None)) is not None:
            listed[name] = card
    return {
        name: listed[name]
        for name in sorted(listed)
        if caller.may_use(name, listed[name].name, listed[name].queue)
    }


def _models(services: Services, theirs: Iterable[str] | None) -> dict[str, ModelCard]:
    """Return what is served, by name and by queue."""
    peers = services.peers
    cards = {name: peers.card(name) for name in (peers.names() if theirs is None else theirs)}
    known = {name: card for name, card in cards.items() if card is not None}
    ours: dict[str, ModelCard] = {}
    for card in services.registry.models():
        for name in (card.name, *(() if card.adapter else (card.queue, *card.aliases))):
            ours.setdefault(name, card)
    return known | ours
