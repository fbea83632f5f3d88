"""Our fleet as one worker of a real FastChat controller."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, cast

import httpx

from api.fastchat import peer_http
from api.fastchat.peer_http import SMALL_ANSWER_BYTES
from api.http.caller import Caller
from api.jobs.catalogue import catalogue
from penstock.contract.worker import IMAGES

if TYPE_CHECKING:
    from api.services import Services

logger = logging.getLogger("penstock.api")

CALL_S: Final = 5.0
RETRY_S: Final = 5.0
LOOK_S: Final = 1.0
"""How often the served models are compared with those that the controller knows."""


class NotAController(Exception):
    """The server at this address is not a FastChat controller, or rejects us."""


class Membership:
    """Registers, sends heartbeats, and registers again if the controller has dropped us.

    The protocol has no message for leaving: a controller drops us when heartbeats stop.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        settings = services.settings
        self._heartbeat_s = settings.fastchat_heartbeat_s
        self._controller = str(settings.fastchat_controller or "").rstrip("/")
        self._name = str(settings.public_url or "").rstrip("/")
        self._task: asyncio.Task[None] | None = None
        self._registered: tuple[list[str], bool] = ([], False)

    async def start(self) -> None:
        """Begin, if a controller is set."""
        if self._controller and not self._name:
            logger.error(
                "PENSTOCK_FASTCHAT_CONTROLLER needs PENSTOCK_PUBLIC_URL: where that controller's "
                "clients reach us"
            )
        elif self._controller:
            self._task = asyncio.create_task(self._stay(), name="penstock-fastchat-membership")

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _stay(self) -> None:
        async with peer_http.client() as http:
            while True:
                try:
                    await self._register(http)
                    while await self._beat(http):
                        pass
                except NotAController as error:
                    logger.error("FastChat controller %s: %s", self._controller, error)  # noqa: TRY400 - the message is complete
                    return
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    logger.warning(
                        "FastChat controller %s: %s; trying again", self._controller, error
                    )
                    await asyncio.sleep(RETRY_S)

    async def _register(self, http: httpx.AsyncClient) -> None:
        status, multimodal = self.status(), self._is_multimodal()
        answer = await self._call(
            http,
            "register_worker",
            {
                "worker_name": self._name,
                "check_heart_beat": True,
                "worker_status": status,
                "multimodal": multimodal,
            },
        )
        if isinstance(answer, dict) and "error_code" in answer:
            text = str(cast("dict[str, Any]", answer).get("text"))[:200]
            raise NotAController(
                f"it is Penstock and answers {text!r}; Penstock's workers join by Redis"
            )
        self._registered = (status["model_names"], multimodal)
        logger.info("Registered with FastChat controller %s as %s", self._controller, self._name)

    async def _beat(self, http: httpx.AsyncClient) -> bool:
        """Wait for the next heartbeat and send it; return False if registering again is due."""
        end = asyncio.get_running_loop().time() + self._heartbeat_s
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(LOOK_S, left))
            if (self.status()["model_names"], self._is_multimodal()) != self._registered:
                return False  # a controller takes the models from a registration alone
        beat = {"worker_name": self._name, "queue_length": self.status()["queue_length"]}
        answer = await self._call(http, "receive_heart_beat", beat)
        return bool(answer["exist"])

    async def _call(self, http: httpx.AsyncClient, path: str, body: object) -> Any:
        url = f"{self._controller}/{path}"
        return await peer_http.call(http, url, body, total_s=CALL_S, most_bytes=SMALL_ANSWER_BYTES)

    def _is_multimodal(self) -> bool:
        """Whether all models take images: FastChat's flag is one worker's, not one model's."""
        cards = catalogue(self._services, Caller(), theirs=()).values()
        return bool(cards) and all(IMAGES in card.capabilities for card in cards)

    def status(self) -> dict[str, Any]:
        """Return the fleet as of one FastChat worker."""
        return fleet_status(self._services, Caller())


def fleet_status(services: Services, caller: Caller) -> dict[str, Any]:
    """Return `/worker_get_status` of all of our own models. FastChat workers are not included.

    `speed` is the number of workers, `queue_length` the jobs that run or wait.
    """
    served = services.registry.served()
    return {
        "model_names": list(catalogue(services, caller, theirs=())),
        "speed": max(1, sum(len(queue.workers) for queue in served)),
        "queue_length": sum(queue.waiting_jobs + queue.load.running for queue in served),
    }
