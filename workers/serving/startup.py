"""From the names of queues to a worker with loaded models, or to one clear line."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import redis
from celery.utils.log import get_logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from penstock.engine.drafting.answer_index import AnswerIndex
from penstock.engine.encoder_engine import EncoderEngine
from penstock.engine.engine import Engine
from penstock.errors import StartupError, StoreUnavailable, first_line
from penstock.models import loader
from penstock.models.backends import encoders
from penstock.models.backends.encoders import LoadedEncoder
from penstock.models.catalogue import resolve
from penstock.models.devices import cpu_cores
from penstock.transport.store import sentinel
from penstock.transport.store.connection import connect, is_passing, patiently
from workers.serving.served_queue import ServedQueue, Sink
from workers.serving.worker import Worker, new_worker_id

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from penstock.contract.worker import ModelCard
    from penstock.models.loader import LoadedModel
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

logger = get_logger(__name__)

_LINE_EVERY_S = 5.0


def open_worker(queues: Sequence[str], slots: int | None, settings: Settings) -> Worker:
    """Make all quick checks, then load the models; no thread is started.

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
    loaded = [_load(spec, settings) for spec in specs]
    return Worker(
        settings=settings,
        store=store,
        worker_id=new_worker_id(),
        open_queues=lambda publish: [_open_queue(model, publish) for model in loaded],
    )


@contextmanager
def _one_line(queue: str, what: str) -> Generator[None]:
    """Report whatever a model's own files make a library raise in one line; the log has the rest.

    :raises StartupError: something was raised.
    """
    try:
        yield
    except StartupError:
        raise
    except Exception as error:
        logger.debug("Loading %s failed", queue, exc_info=True)
        raise StartupError(
            f"queue {queue}: {what} could not be loaded: {type(error).__name__}: {first_line(error)}"
        ) from error


def _resolve(queue: str, settings: Settings) -> ModelSpec:
    with _one_line(queue, "its model"):
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


def _load(spec: ModelSpec, settings: Settings) -> LoadedModel | LoadedEncoder:
    started_s = time.monotonic()
    with _one_line(spec.queue, str(spec.path)), _shown_progress(spec.queue) as progress:
        load = loader.load if spec.task == "generate" else encoders.load
        loaded = load(spec, settings, slots=None, progress=progress)
    logger.info("%s", describe(loaded.card, time.monotonic() - started_s))
    return loaded


def describe(card: ModelCard, load_s: float) -> str:
    """One line about a loaded model."""
    return (
        f"Loaded {card.queue}: {_short(card.parameters)} parameters, "
        f"{card.weights_bytes / 2**20:,.1f} MiB, {card.format} ({card.backend}), "
        f"{_published(card)}device {card.device}, context {card.context_length}, {card.slots} slots, "
        + (f"KV cache of {card.kv_cache_tokens} tokens, " if card.kv_cache_tokens else "")
        + f"in {load_s:.1f} s"
    )


def _published(card: ModelCard) -> str:
    """What a quantised checkpoint was published as, and what became of its weights."""
    if not card.stored:
        return ""
    if card.weight_error is None:
        return f"published as {card.stored}, "
    became = f"weights off by {card.weight_error:.2%}" if card.weight_error else "weights exact"
    return f"published as {card.stored}, {became}, "


def _short(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _open_queue(loaded: LoadedModel | LoadedEncoder, publish: Callable[..., None]) -> ServedQueue:
    card, sink = loaded.card, Sink(publish)
    if isinstance(loaded, LoadedEncoder):
        engine = EncoderEngine(
            loaded.encoder, slots=card.slots, batch_tokens=loaded.batch_tokens, sink=sink
        )
        return ServedQueue(card=card, tokenizer=loaded.tokenizer, engine=engine, sink=sink)
    answers = AnswerIndex(card.vocab_size) if loaded.options.speculation_tokens else None
    engine = Engine(
        loaded.model,
        loaded.tokenizer,
        loaded.options,
        sink,
        answers=answers,
        store=loaded.store,
        draft_model=loaded.draft_model,
    )
    return ServedQueue(
        card=card,
        tokenizer=loaded.tokenizer,
        engine=engine,
        sink=sink,
        vision=loaded.vision,
        answers=answers,
        adapters=loaded.adapters,
    )


@contextmanager
def _shown_progress(queue: str) -> Generator[Callable[[float, str], None]]:
    """Show `progress(share, what)`: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.fields[queue]}"),
            BarColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("opening", total=1.0, queue=queue)
            yield lambda share, what: bar.update(task, completed=share, description=what)
        return
    last_s = time.monotonic()

    def show(share: float, what: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_EVERY_S:
            last_s = time.monotonic()
            logger.info("Loading %s: %d %%, %s", queue, round(share * 100), what)

    yield show
