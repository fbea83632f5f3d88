"""A call of FastChat's worker protocol, and the queue or FastChat worker that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from api.access.dependencies import services_of
from api.fastchat import relay
from api.fastchat.peers import peers_of
from api.fastchat.route import read
from api.fastchat.schema import OptionalModelName
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.jobs.routing import pick
from penstock.contract.worker import FASTCHAT
from penstock.errors import UnknownModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

    from api.services import Services
    from penstock.contract.worker import ModelCard

Asked = TypeVar("Asked", bound=OptionalModelName)


@dataclass(frozen=True)
class Call(Generic[Asked]):
    """One request, read. `card` is of one of our queues, or stands for FastChat's workers."""

    request: Request
    asked: Asked
    card: ModelCard

    @property
    def services(self) -> Services:
        """The process's services."""
        return services_of(self.request)

    @property
    def is_elsewhere(self) -> bool:
        """Whether a FastChat worker answers."""
        return self.card.backend == FASTCHAT

    @property
    def body(self) -> dict[str, Any]:
        """The body for a FastChat worker: the client's values, without our defaults."""
        return {**self.asked.model_dump(exclude_unset=True), "model": self.card.name}

    async def answered(
        self, ours: Callable[[Call[Asked]], Coroutine[Any, Any, dict[str, Any]]]
    ) -> Response:
        """Return the answer in one object: a FastChat worker's, or what `ours` returns.

        :raises PenstockError, Refusal: either fails.
        """
        work = self._elsewhere() if self.is_elsewhere else ours(self)
        return json_response(await until_disconnect(self.request.receive, work))

    async def _elsewhere(self) -> dict[str, Any]:
        services, path = self.services, self.request.url.path
        timeout_s = services.settings.fastchat_worker_timeout_s
        return await relay.post(peers_of(services), path, self.card.name, self.body, timeout_s)

    def relayed(self) -> AsyncGenerator[bytes, None]:
        """Yield the frames of a FastChat worker's stream."""
        tick_s = self.services.settings.keepalive_s
        return relay.frames(peers_of(self.services), self.card.name, self.body, tick_s)


def _only_model(request: Request) -> str:
    cards = services_of(request).registry.models()
    names = {card.name for card in cards if card.adapter is None}
    if len(names) != 1:
        raise UnknownModel("`model` is missing, and there is not just one", param="model")
    (name,) = names
    return name


async def call_of(request: Request, schema: type[Asked]) -> Call[Asked]:
    """Read a request and choose who answers; without a name, the only model that there is.

    :raises Refusal: the body is not `schema`.
    :raises UnknownModel, NoWorker, StoreUnavailable, NotPermitted: as `api.jobs.routing.route`.
    """
    asked = await read(request, schema)
    return Call(request, asked, pick(request, asked.model or _only_model(request)))
