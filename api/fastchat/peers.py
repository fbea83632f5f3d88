"""FastChat's own workers beside ours: which there are, which serve a model, which have died."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import httpx
import msgspec
from redis.exceptions import RedisError

from api.fastchat import peer_http
from api.fastchat.peer_http import SMALL_ANSWER_BYTES
from api.fastchat.registration import ANYWHERE, Status, checked_url, status_of, updated
from api.jobs.generation import CAPABILITY
from penstock.contract.worker import FASTCHAT, IMAGES, ModelCard
from penstock.errors import NotPermitted, NoWorker, UnknownModel
from penstock.transport import keys
from penstock.transport.fleet.fastchat_workers import PROBE_S, PeerBook, PeerCard
from penstock.transport.store.named_lease import Lease

if TYPE_CHECKING:
    import redis.asyncio

    from api.services import Services
    from penstock.settings import Settings

logger = logging.getLogger("penstock.api")

REFRESH_S: Final = 1.0
STATUS_S: Final = 5.0
"""How long a worker may take to report its status, as in FastChat's controller."""
MOST_WORKERS: Final = 1_000
MOST_CONTEXT: Final = 10**8
MISSED_PROBES: Final = 3
"""A worker that is silent this often in a row counts as dead; one that refuses, at once."""
BEGINNING_S: Final = 5.0
"""FastChat's workers join before they listen: a refusal within this time of joining is ignored."""
UNKNOWN_CONTEXT: Final = 2_048
"""FastChat's own guess if a worker does not report it."""
ANY_TOKEN: Final = 2**31 - 1


def peers_of(services: Services) -> Peers:
    """Return FastChat's workers with all that FastChat's own routes do with them."""
    return cast("Peers", services.peers)


class Peers:
    """This process's view of the FastChat workers. Owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self.settings = settings
        self.book = PeerBook(redis, settings)
        self.http = peer_http.client()
        self._cards: tuple[PeerCard, ...] = ()
        self._sent: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._missing: dict[str, PeerCard] = {}
        """Workers that are no longer listed, and are asked whether they live."""
        self._unheard: dict[str, float] = {}
        """When workers joined that did not listen yet, on the monotonic clock."""
        self._turn = Lease(redis, keys.PEER_PROBER, uuid.uuid4().hex, 3 * PROBE_S)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Follow the list of workers, if any may register."""
        if self.settings.fastchat_worker_hosts or self.settings.fastchat_worker_token:
            await self._try(self.refresh)
            self._tasks = [
                asyncio.create_task(self._for_ever(self.refresh, REFRESH_S)),
                asyncio.create_task(self._for_ever(self.restore, REFRESH_S)),
                asyncio.create_task(self._for_ever(self.probe, PROBE_S)),
            ]

    async def stop(self) -> None:
        """Stop following the list."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.http.aclose()

    async def _for_ever(self, work: Any, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            await self._try(work)

    async def _try(self, work: Any) -> None:
        try:
            await work()
        except (RedisError, OSError, RuntimeError) as error:
            logger.debug("FastChat workers: %s", error)
        except Exception:
            logger.exception("FastChat workers")

    async def refresh(self) -> None:
        """Read the list again, without workers that are no longer allowed.

        A worker that is missing counts as listed until `restore` has asked it.
        """
        listed = {card.url: card for card in await self.book.cards() if self._is_allowed(card)}
        before = {card.url: card for card in self._cards if self._is_allowed(card)}
        self._missing = {url: card for url, card in before.items() if url not in listed}
        self._cards = (*listed.values(), *self._missing.values())

    async def restore(self) -> None:
        """Put workers back that live and are missing: Redis has lost its memory.

        Otherwise they would join again with their next heartbeat, up to 45 s later.
        """
        await asyncio.gather(*(self._restore(card) for card in self._missing.values()))

    async def _restore(self, card: PeerCard) -> None:
        try:
            status = await self._status(card.url)
        except (httpx.HTTPError, ValueError):  # another process has dropped it, and rightly so
            self._forget(card.url)
        else:
            await self.book.put(updated(card, status))

    def _forget(self, url: str) -> None:
        self._missing.pop(url, None)
        self._cards = tuple(card for card in self._cards if card.url != url)

    def _is_allowed(self, card: PeerCard) -> bool:
        if card.vouched and self.settings.fastchat_worker_token:
            return True
        try:
            checked_url(card.url, self.settings.fastchat_worker_hosts)
        except NotPermitted:
            return False
        return True

    def _checked(self, name: str, *, vouched: bool) -> str:
        return checked_url(name, ANYWHERE if vouched else self.settings.fastchat_worker_hosts)

    async def register(
        self, name: str, status: Status | None, *, multimodal: bool, vouched: bool = False
    ) -> None:
        """Let a worker join. One that has not reported what it serves is asked.

        A worker that is `vouched` for, by the token, may be on any host.

        :raises NotPermitted: it may not, or there are too many; nothing has been called then.
        :raises NoWorker: it does not answer.
        """
        url = self._checked(name, vouched=vouched)
        if len(self._cards) >= MOST_WORKERS and all(card.url != url for card in self._cards):
            raise NotPermitted(f"{MOST_WORKERS} FastChat workers are registered: that is the most")
        if status is None or not status.model_names:
            try:
                status = await self._status(url)
            except (httpx.HTTPError, ValueError) as error:
                raise NoWorker(f"{url} does not answer as a FastChat worker: {error}") from error
        card = PeerCard(
            url,
            status.model_names,
            status.speed,
            status.queue_length,
            multimodal,
            vouched=vouched,
        )
        context_length = await self._context_length(card)
        await self.book.put(msgspec.structs.replace(card, context_length=context_length))
        logger.info("FastChat worker %s serves %s", url, ", ".join(card.models))
        await self.refresh()

    async def beat(self, name: str, queue_length: int, *, vouched: bool = False) -> bool:
        """Take a heartbeat; False asks the worker to register again."""
        if not (vouched or self.settings.fastchat_worker_hosts):
            return False
        card = await self.book.get(self._checked(name, vouched=vouched))
        if card is None:
            return False
        return await self.book.renew(msgspec.structs.replace(card, queue_length=queue_length))

    async def _status(self, url: str) -> Status:
        """:raises httpx.HTTPError, ValueError: it does not answer, or not as a worker does."""
        return status_of(
            await peer_http.call(
                self.http,
                f"{url}/worker_get_status",
                None,
                total_s=STATUS_S,
                most_bytes=SMALL_ANSWER_BYTES,
            )
        )

    async def _context_length(self, card: PeerCard) -> int:
        model = card.models[0] if card.models else ""
        try:
            details = await self.call(card, "/model_details", {"model": model})
            return min(max(int(details["context_length"]), 1), MOST_CONTEXT)
        except httpx.ConnectError:
            self._unheard[card.url] = time.monotonic()
            return UNKNOWN_CONTEXT
        except (httpx.HTTPError, ValueError, KeyError, TypeError, OverflowError):
            return UNKNOWN_CONTEXT

    async def probe(self) -> None:
        """Ask every worker for its status, if it is this process's turn."""
        self._sent.clear()
        if self._cards and (await self._turn.renew() or await self._turn.take()):
            await asyncio.gather(*(self._probe(card) for card in self._cards))

    async def _probe(self, card: PeerCard) -> None:
        try:
            status = await self._status(card.url)
        except httpx.ConnectError:
            await self.lost(card.url)
        except (httpx.HTTPError, ValueError):
            self._missed[card.url] += 1
            if self._missed[card.url] >= MISSED_PROBES:
                await self.lost(card.url)
        else:
            self._missed.pop(card.url, None)
            self._unheard.pop(card.url, None)
            await self.book.renew(updated(card, status))

    async def lost(self, url: str) -> bool:
        """Drop a worker that does not answer; False if it has just joined and may still be starting."""
        joined_s = self._unheard.get(url)
        if joined_s is not None and time.monotonic() - joined_s < BEGINNING_S:
            return False
        self._unheard.pop(url, None)
        logger.warning("FastChat worker %s does not answer and is dropped", url)
        self._missed.pop(url, None)
        self._forget(url)
        with suppress(RedisError, OSError):
            await self.book.drop(url)
        return True

    def names(self, *, multimodal: bool | None = None) -> list[str]:
        """Return the models that live workers serve, sorted."""
        chosen = (c for c in self._cards if multimodal is None or c.multimodal == multimodal)
        return sorted({name for card in chosen for name in card.models})

    def pick(self, model: str, *, without: frozenset[str] = frozenset()) -> PeerCard:
        """Return the worker with the shortest queue, as FastChat's controller weighs them.

        :raises UnknownModel: none serves it.
        """
        serving = [c for c in self._cards if model in c.models and c.url not in without]
        if not serving:
            raise UnknownModel(f"the model {model!r} does not exist", param="model")
        best = min(serving, key=lambda c: (c.queue_length + self._sent[c.url]) / max(c.speed, 1e-6))
        self._sent[best.url] += 1
        return best

    def card(self, model: str) -> ModelCard | None:
        """Return a card for a model; None if no FastChat worker serves it."""
        serving = [card for card in self._cards if model in card.models]
        if not serving:
            return None
        sees = all(card.multimodal for card in serving)
        return ModelCard(
            name=model, queue="", device="elsewhere", backend=FASTCHAT, format="unknown",
            architecture="unknown", parameters=0, weights_bytes=0,
            context_length=min(card.context_length for card in serving) or UNKNOWN_CONTEXT,
            vocab_size=ANY_TOKEN, slots=0, kv_cache_tokens=0,
            capabilities=(CAPABILITY, IMAGES) if sees else (CAPABILITY,),
        )  # fmt: skip

    async def call(self, card: PeerCard, path: str, body: object) -> Any:
        """Return the JSON answer of one of a worker's small calls.

        :raises httpx.HTTPError, ValueError: it does not answer, or not in JSON.
        """
        return await peer_http.call(
            self.http,
            f"{card.url}{path}",
            body,
            total_s=STATUS_S,
            most_bytes=SMALL_ANSWER_BYTES,
        )
