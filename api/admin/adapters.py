"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import PlainTextResponse, Response

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.json_body import read_json
from penstock.contract.adapter import LONGEST_NAME, LONGEST_PATH, LoadedAdapter, check_name
from penstock.contract.tokenizer_calls import LoadAdapter, TokenizerCall
from penstock.errors import BadRequest, InvalidParameter, NoWorker, UnknownModel, UnknownObject

if TYPE_CHECKING:
    from api.services import Services
    from penstock.contract.adapter import AdapterCard
    from penstock.transport.fleet.registry import Served

router = Router(tags=["operations"])

LOADING_S: Final = 120.0
"""How long a worker may take to load an adapter."""


class LoadRequest(BaseModel):
    """An adapter to serve. Without `base_model_name` it is for the only model that takes adapters."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str = Field(min_length=1, max_length=LONGEST_NAME)
    lora_path: str = Field(min_length=1, max_length=LONGEST_PATH)
    base_model_name: str | None = Field(default=None, max_length=LONGEST_NAME)
    load_inplace: bool = False


class UnloadRequest(BaseModel):
    """An adapter to serve no longer."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str = Field(min_length=1, max_length=LONGEST_NAME)


@router.endpoint("/v1/load_lora_adapter", LoadRequest)
async def load_lora_adapter(request: Request) -> Response:
    """Have a worker of the base load and check an adapter; then the whole fleet serves it.

    :raises InvalidParameter: the name is taken, or the adapter cannot be used.
    :raises UnknownModel, NoWorker, StoreUnavailable: there is no such base, or no worker answers.
    """
    services = services_of(request)
    asked = await read_json(request, LoadRequest, services.settings.max_body_bytes)
    name = check_name(asked.lora_name, "lora_name")
    queues = _bases(services, asked.base_model_name)
    base = queues[0].card.name
    _check_free(services, name, base)
    card = await _loaded(services, queues, name, asked.lora_path)
    await services.adapters.add(LoadedAdapter(base, card), in_place=asked.load_inplace)
    await _known_at_once(services)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


@router.endpoint("/v1/unload_lora_adapter", UnloadRequest)
async def unload_lora_adapter(request: Request) -> Response:
    """Serve an adapter no longer; requests that were accepted still get their answers.

    :raises InvalidParameter: the models file names it.
    :raises UnknownObject: there is none of this name.
    """
    services = services_of(request)
    asked = await read_json(request, UnloadRequest, services.settings.max_body_bytes)
    name = asked.lora_name
    if not await services.adapters.remove(name):
        if any(
            one.name == name for queue in services.registry.known() for one in queue.card.adapters
        ):
            raise InvalidParameter(
                f"The models file of a worker names the adapter {name!r}: remove it there",
                param="lora_name",
            )
        raise UnknownObject(f"The lora adapter {name!r} cannot be found.", param="lora_name")
    await _known_at_once(services)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _known_at_once(services: Services) -> None:
    """Have this process's next request see the change; the others see it within a second."""
    with suppress(RedisError, OSError):
        await services.registry.refresh()


def _bases(services: Services, named: str | None) -> list[Served]:
    """Return the live queues of an adapter's base.

    :raises UnknownModel, NoWorker: there is none of this name.
    :raises InvalidParameter: it takes no adapters; or several models do, and none is named.
    """
    if named is None:
        live = [queue for queue in services.registry.served() if queue.card.most_adapters]
    else:
        try:
            resolved = services.registry.resolve(named)
        except (UnknownModel, NoWorker) as error:
            error.param = "base_model_name"
            raise
        live = [queue for queue in resolved if queue.card.most_adapters and not queue.card.parent]
    names = {queue.card.name for queue in live}
    if not names:
        raise InvalidParameter("No model here takes adapters", param="base_model_name")
    if len(names) > 1:
        raise InvalidParameter(
            f"base_model_name: {', '.join(sorted(names))} take adapters: choose one",
            param="base_model_name",
        )
    return live


def _check_free(services: Services, name: str, base: str) -> None:
    """Check that no model has an adapter's name.

    :raises InvalidParameter: one has.
    """
    for card in services.registry.models():
        own = card.name == name and not (card.adapter and card.parent == base)
        if own or name == card.queue or name in card.aliases or services.aliases.get(name):
            raise InvalidParameter(f"{name!r} is the name of a served model", param="lora_name")


async def _loaded(services: Services, queues: list[Served], name: str, path: str) -> AdapterCard:
    """Return the card of an adapter that a worker of each queue has loaded.

    :raises InvalidParameter: one of them cannot use it, or they have different ones.
    """
    calls = [
        TokenizerCall(uuid.uuid4().hex, queue.card.queue, "", LoadAdapter(name, path))
        for queue in queues
    ]
    try:
        replies = await asyncio.gather(*(services.replies.call(call, LOADING_S) for call in calls))
    except BadRequest as error:
        error.param = error.param or "lora_path"
        raise
    cards = [reply.adapter for reply in replies if reply.adapter is not None]
    if len({card.digest for card in cards}) != 1:
        raise InvalidParameter(
            f"lora_path: the workers of {', '.join(call.queue for call in calls)} find different "
            f"adapters there",
            param="lora_path",
        )
    return cards[0]
