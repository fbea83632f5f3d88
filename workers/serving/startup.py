"""From the names of queues to a worker with loaded models, or to one clear line."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import redis
from celery.utils.log import get_logger

from penstock.errors import StartupError, StoreUnavailable
from penstock.models import loader
from penstock.models.catalogue import resolve
from penstock.models.devices import cpu_cores
from penstock.transport.store import sentinel
from penstock.transport.store.connection import connect, is_passing, patiently
from workers.serving.identity import new_worker_id
from workers.serving.loading import load, one_line, open_queue
from workers.serving.on_demand.opening import open_on_demand
from workers.serving.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.models.backends.encoders import LoadedEncoder
    from penstock.models.loader import LoadedModel
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings
    from workers.serving.block_exchange.exchange import BlockExchange
    from workers.serving.served_queue import ServedQueue

    Publish = Callable[..., None]

logger = get_logger(__name__)


def open_worker(queues: Sequence[str], slots: int | None, settings: Settings) -> Worker:
    """Make all quick checks, then load the models, but those on demand; no thread is started.

    `slots` is `-c`: how many jobs each queue runs at once. It takes precedence over the setting
    and the model's entry.

    :raises StartupError: with the line to show.
    :raises StoreUnavailable: Redis did not answer for `redis_patience_s`.
    """
    if slots:
        settings = settings.model_copy(update={"slots": slots})
    specs = [_resolve(queue, settings) for queue in queues]
    cpu_cores.take(settings.cores)
    for spec in specs:
        loader.check_device(spec)
    store = connect(settings)
    _await_redis(store, settings)
    exchange = exchange_of(settings, store)
    if settings.resident_models:
        open_queues = open_on_demand(specs, settings)
    else:
        loaded = [load(spec, settings) for spec in specs]
        open_queues = partial(_open_loaded, loaded)
    return Worker(
        settings=settings,
        store=store,
        worker_id=new_worker_id(),
        open_queues=partial(with_exchange, exchange, open_queues),
    )


def _open_loaded(
    loaded: Sequence[LoadedModel | LoadedEncoder], publish: Callable[..., None]
) -> list[ServedQueue]:
    return [open_queue(model, publish) for model in loaded]


def exchange_of(settings: Settings, store: redis.Redis) -> BlockExchange | None:
    """Return what exchanges blocks with other hosts; None without a token.

    :raises StartupError: the settings do not fit together, or its port is not free.
    """
    if not settings.kv_exchange_token:
        return None
    from workers.serving.block_exchange.exchange import (  # noqa: PLC0415 - an HTTP server, for few workers
        BlockExchange,
    )

    return BlockExchange.of(settings, store)


def with_exchange(
    exchange: BlockExchange | None,
    open_queues: Callable[[Publish], Sequence[ServedQueue]],
    publish: Publish,
) -> Sequence[ServedQueue]:
    """Return the queues that are opened, each with its part in the exchange."""
    queues = open_queues(publish)
    for served in queues:
        served.exchange = exchange
    return queues


def _resolve(queue: str, settings: Settings) -> ModelSpec:
    with one_line(queue, "its model"):
        return resolve.resolve(queue, settings)


def _ping(store: redis.Redis) -> None:
    store.ping()  # pyright: ignore[reportUnknownMemberType] - redis-py's types


def _await_redis(store: redis.Redis, settings: Settings) -> None:
    where = sentinel.address(settings)
    try:
        _ping(store)
    except redis.RedisError as error:
        if is_passing(error):
            logger.warning(
                "Redis at %s does not answer (%s); trying for %g s",
                where,
                error,
                settings.redis_patience_s,
            )
        try:
            patiently(partial(_ping, store), settings.redis_patience_s)
        except StoreUnavailable as given_up:
            raise StartupError(f"PENSTOCK_REDIS_URL, {where}: {given_up}") from given_up
